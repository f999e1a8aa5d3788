"""Wrong input: each is refused with exit status 2 and a message that says where, what and the way out."""
import os
import subprocess
import unittest

from harness import TRIREME, VOCAB, CommandTest, easy_tokens, write_shard


class WrongConfig(CommandTest):
    def refused(self, *words, config=None, extra=(), **changes):
        shown = self.trireme("train", config or self.make_config(**changes), *extra, status=2)
        for word in words:
            self.assertIn(word, shown)
        self.assertFalse(self.metrics())
        return shown

    def test_unknown_key_names_file_line_and_nearest_key(self):
        text = "model: {layers: 2, heads: 2, width: 32}\noptim:\n  lr: 0.1\n  weight_decai: 0.1\n"
        self.refused("wrong.yaml:4", "weight_decai", "weight_decay", config=self.make_file("wrong.yaml", text))

    def test_unknown_section(self):
        text = "modle: {layers: 2}\n"
        self.refused("wrong.yaml:1", "modle", "model", config=self.make_file("wrong.yaml", text))

    def test_unknown_key_in_set(self):
        self.refused("optim.lrr", "lr", extra=("--set", "optim.lrr=1"))

    def test_wrong_type(self):
        text = "model: {layers: 2}\nbatch:\n  global: many\n"
        self.refused("wrong.yaml:3", "global", "many", config=self.make_file("wrong.yaml", text))

    def test_unknown_name(self):
        self.refused("adamm", "adamw", optim={"kind": "adamm"})

    def test_broken_yaml(self):
        self.refused("wrong.yaml:2", config=self.make_file("wrong.yaml", "model: {layers: 2}\nbatch: {global: 4\n"))

    def test_no_such_file(self):
        self.refused("nowhere.yaml", config=self.folder / "nowhere.yaml")

    def test_global_batch_that_micro_batches_do_not_divide(self):
        self.refused("batch.global", "9", "2", batch={"global": 9, "micro": 2})

    def test_width_that_heads_do_not_divide(self):
        self.refused("33", "heads", model={"width": 33})

    def test_sequence_longer_than_the_context(self):
        self.refused("sequence", "context", batch={"sequence": 64})

    def test_ranks_that_do_not_divide_the_global_batch(self):
        config = self.make_config(batch={"global": 8, "micro": 8})
        shown = self.trireme("launch", config, "-n", 2, status=2)
        self.assertIn("batch.global", shown)

    def test_mesh_that_does_not_fit_the_ranks(self):
        shown = self.trireme("launch", self.make_config(parallel={"data": 3}), "-n", 2, status=2)
        self.assertIn("3", shown)


class WrongData(CommandTest):
    def refused(self, *words, **changes):
        shown = self.trireme("train", self.make_config(**changes), status=2)
        for word in words:
            self.assertIn(word, shown)

    def test_truncated_shard(self):
        self.make_data()
        os.truncate(self.folder / "train_000.bin", 5000)
        self.refused("train_000.bin", "20000")

    def test_shard_cut_in_its_header(self):
        self.make_data()
        os.truncate(self.folder / "train_000.bin", 100)
        self.refused("train_000.bin")

    def test_wrong_magic(self):
        self.make_data()
        write_shard(self.folder / "train_000.bin", easy_tokens(1000), magic=12345)
        self.refused("train_000.bin", "20240520", "12345")

    def test_tokens_above_the_vocabulary(self):
        self.make_data()
        write_shard(self.folder / "train_000.bin", easy_tokens(500) + [VOCAB + 1000] * 500)
        self.refused(str(VOCAB + 1000), str(VOCAB))

    def test_shards_that_hold_less_than_one_sample(self):
        self.make_data()
        write_shard(self.folder / "train_000.bin", easy_tokens(20))
        self.refused("20", "batch.sequence")

    def test_no_file_matches(self):
        self.refused("nothing*.bin", data={"train": f"{self.folder}/nothing*.bin"})


class WrongStart(CommandTest):
    """Runs that start from what does not fit them."""

    def setUp(self):
        super().setUp()
        self.config = self.make_config(run={"steps": 2})
        self.trireme("train", self.config)

    def test_optimizer_state_of_another_optimizer(self):
        for kind in "sgd", "lion", "adafactor":
            shown = self.trireme("train", self.config, "--set", f"optim.kind={kind}", "--set", "run.steps=3", status=2)
            self.assertIn(f"optim.kind = adamw there, {kind} here", shown)
            self.assertIn("another optimizer", shown)
            self.assertIn("checkpoint.init_from", shown)

    def test_a_start_that_is_refused_leaves_checkpoints_as_they_are(self):
        self.trireme("train", self.config, "--set", "run.steps=4", "--set", "checkpoint.every=2")
        before = sorted(os.listdir(self.run_folder))
        first, last = (str(self.checkpoint(step)) for step in (2, 4))
        for change in ([f"checkpoint.resume={first}", "optim.kind=sgd"],
                       ["checkpoint.resume=never", f"checkpoint.init_from={last}"],
                       ["checkpoint.resume=never", f"checkpoint.init_from={last}/"],
                       ["checkpoint.resume=never", f"checkpoint.init_from={self.run_folder}"],
                       ["checkpoint.resume=never", f"checkpoint.init_from={last}", "model.layers=3"]):
            self.trireme("train", self.config, *(word for key in change for word in ("--set", key)), status=2)
            self.assertEqual(sorted(os.listdir(self.run_folder)), before)

    def test_weights_of_another_model(self):
        shown = self.trireme("train", self.config, "--set", f"checkpoint.init_from={self.run_folder}", "--set", "run.out=other",
                             "--set", "model.layers=3", status=2)
        self.assertIn("model.layers = 2 there, 3 here", shown)
        self.assertIn("no checkpoint.init_from", shown)

    def test_a_run_that_is_at_its_end_says_so(self):
        self.assertIn("raise run.steps", self.trireme("train", self.config))
        self.assertNotIn("raise run.steps", self.trireme("train", self.config, "--set", "run.steps=3"))

    def test_a_file_where_the_runs_folder_should_be(self):
        self.assertIn("a folder is wanted", self.trireme("train", self.config, "--set", f"run.out={self.config}", status=2))


class WrongOnAllRanks(CommandTest):
    """Ranks of mpirun say together what is wrong."""

    def told_once(self, expected, *arguments):
        done = self.mpirun(3, *arguments)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stderr.count("trireme: error: "), 1, done.stderr)
        self.assertIn(expected, done.stderr)

    def test_a_wrong_experiment_is_told_once(self):
        config = self.make_config(batch={"global": 12})
        cases = {"optim.lrr": "optim.lrr=1", "tensor 2 does not divide 3 ranks": "parallel.tensor=2", "a folder is wanted": f"run.out={config}",
                 "optim.schedule": "optim.schedule.kind=nonsense", "optim.lr": "optim.lr=-1",
                 "nothing*.bin": "data.train=nothing*.bin", "nowhere": "checkpoint.init_from=nowhere"}
        for expected, change in cases.items():
            with self.subTest(change=change):
                self.told_once(expected, "train", config, "--set", change)
        self.told_once("no_such.yaml", "train", "no_such.yaml")

    def test_a_checkpoint_that_does_not_fit_is_told_once(self):
        config = self.make_config(batch={"global": 12}, run={"steps": 2})
        self.trireme("train", config)
        self.told_once("another optimizer", "train", config, "--set", "optim.kind=sgd", "--set", "run.steps=3")
        self.told_once("nowhere", "eval", "nowhere", "--data", "x*.bin")
        self.told_once("x*.bin", "eval", self.run_folder, "--data", "x*.bin")
        self.told_once("--context", "generate", self.run_folder, "--context", 3)
        self.told_once("does not tell its tokenizer", "generate", self.run_folder)
        self.told_once("has 257 tokens", "generate", self.run_folder, "--tokenizer", "bytes")

    def test_ranks_that_are_told_different_things_say_which(self):
        folder = self.make_config(batch={"global": 12}).parent
        (folder / "here").mkdir()
        script = self.make_file("rank.sh", f'cd "{folder}/here"\n[ "$OMPI_COMM_WORLD_RANK" = 2 ] || cd "{folder}"\nexec "$@"\n')
        done = subprocess.run(["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3", "sh", script, TRIREME, "train", "config.yaml"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self.environment(), cwd=folder, timeout=60)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stderr.count("trireme: error: "), 1, done.stderr)
        self.assertIn("rank 2: ", done.stderr)
        self.assertIn("config.yaml", done.stderr)


class WrongUse(CommandTest):
    def test_import_of_a_folder_without_a_model(self):
        self.assertIn("config.json", self.trireme("import", self.folder, "--out", "imported", status=2))

    def test_output_that_cannot_be_written_is_a_failure(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([TRIREME, "config-reference"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("standard output", done.stderr)

    def test_more_threads_than_can_be_started(self):
        shown = self.trireme("train", self.make_config(), extra_environment={"OMP_NUM_THREADS": "100000"}, status=2)
        self.assertIn("4096", shown)
        self.assertIn("run.threads", shown)

    def test_a_number_out_of_range_is_named_in_few_words(self):
        cases = [("eval", "--threads"), ("eval", "--batches"), ("eval", "--micro"), ("eval", "--sequence"), ("eval", "--context"), ("generate", "--threads"),
                 ("generate", "--seed"), ("import", "--vocab")]
        for command, option in cases:
            with self.subTest(command=command, option=option):
                shown = self.trireme(command, "nowhere", option, -1, status=2)
                self.assertIn(option, shown)
                self.assertIn("-1", shown)
                self.assertLess(len(shown), 150)

    def test_unknown_command_option_and_missing_argument(self):
        for arguments in (["trian"], ["train"], ["train", "--nonsense"], ["launch", "a.yaml", "-n", "many"], []):
            with self.subTest(arguments=arguments):
                self.trireme(*arguments, status=2)

    def test_set_without_a_value(self):
        self.trireme("train", self.make_config(), "--set", "run.steps", status=2)

    def test_a_checkpoint_that_is_not_there(self):
        for command in ("eval", "generate"):
            with self.subTest(command=command):
                self.assertIn("nowhere", self.trireme(command, "nowhere", "--data", "x*.bin", status=2)
                              if command == "eval" else self.trireme(command, "nowhere", status=2))


if __name__ == "__main__":
    unittest.main()
