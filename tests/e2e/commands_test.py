"""The commands besides training: each runs on real input and says what is true."""
import json
import math
import re
import subprocess
import unittest

from harness import TRIREME, VOCAB, CommandTest, write_text

COMMANDS = ["train", "launch", "plan", "prepare", "generate", "eval", "inspect", "import", "export", "bench"]


class Help(CommandTest):
    def test_every_command_has_help_with_an_example(self):
        shown = self.trireme("--help")
        listed = re.findall(r"^  ([a-z][a-z-]+)  ", shown, re.MULTILINE)
        for command in COMMANDS:
            self.assertIn(command, listed)
        for command in listed:
            with self.subTest(command=command):
                text = self.trireme(command, "--help")
                self.assertRegex(text, rf"(?is)example.*trireme {command}")

    def test_version(self):
        self.assertRegex(self.trireme("--version"), r"\d+\.\d+\.\d+")


class Text(CommandTest):
    """From text to a sample: prepare, train, eval, generate, inspect."""

    def prepare(self, *arguments):
        text = self.folder / "text.txt"
        if not text.exists():
            write_text(text)
        return self.trireme("prepare", text, "--out", self.folder / "tokens", *arguments)

    def train_on_text(self, steps=60, **changes):
        config = self.make_config(data={"train": f"{self.folder}/tokens/train*.bin", "valid": f"{self.folder}/tokens/valid*.bin"},
                                  model={"vocab": 0}, run={"steps": steps}, **changes)
        self.trireme("train", config)

    def evaluate(self, checkpoint, *arguments):
        shown = self.trireme_stdout("eval", checkpoint, "--data", f"{self.folder}/tokens/valid*.bin", "--json", *arguments)
        return json.loads(shown)

    def test_bytes_from_text_to_sample(self):
        self.prepare("--tokenizer", "bytes")
        self.train_on_text()
        score = self.evaluate(self.run_folder)
        self.assertAlmostEqual(score["perplexity"], math.exp(score["loss"]), delta=1e-3 * score["perplexity"])
        # A token is a byte, so bits per byte are the loss in bits.
        self.assertAlmostEqual(score["bits_per_byte"], score["loss"] / math.log(2), delta=1e-3)
        self.assertLess(score["bits_per_byte"], 4.0)
        self.assertGreater(score["tokens"], 500)
        self.assertLess(self.evaluate(self.run_folder, "--batches", 1)["tokens"], score["tokens"])

        sample = ["generate", self.run_folder, "--prompt", "The ", "--tokens", 20]
        first = self.trireme_stdout(*sample, "--seed", 1)
        self.assertTrue(first.startswith("The "), first)
        self.assertEqual(self.trireme_stdout(*sample, "--seed", 1), first)
        self.assertNotEqual(self.trireme_stdout(*sample, "--seed", 2, "--temperature", 1.5), first)
        greedy = [self.trireme_stdout(*sample, "--temperature", 0, "--seed", seed) for seed in (1, 2)]
        self.assertEqual(greedy[0], greedy[1])
        self.assertEqual(self.trireme_stdout(*sample, "--top-k", 1, "--seed", 3), greedy[0])
        self.trireme(*sample, "--top-p", 0.5)

    def test_sentencepiece_from_text_to_sample(self):
        self.prepare("--tokenizer", "sentencepiece", "--vocab", 300)
        models = list((self.folder / "tokens").glob("*.model"))
        self.assertEqual(len(models), 1)
        self.train_on_text(steps=20)
        score = self.evaluate(self.run_folder)
        # A token is several bytes, so there are fewer bits to a byte than to a token.
        self.assertLess(score["bits_per_byte"], score["loss"] / math.log(2))
        self.trireme_stdout("generate", self.run_folder, "--prompt", "The oars", "--tokens", 10)
        self.assertIn("300", self.trireme("inspect", models[0]))
        # A tokenizer of fewer tokens than the model knows: those that it has no text for are not drawn.
        command = [TRIREME, "generate", self.run_folder, "--tokenizer", "bytes", "--tokens", "60", "--temperature", "1e3"]
        done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, env=self.environment(),
                              cwd=self.folder, timeout=60)  # bytes that may be no text
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(len(done.stdout), 5)

    def test_eval_refuses_tokens_of_another_tokenizer(self):
        self.prepare("--tokenizer", "sentencepiece", "--vocab", 300)
        self.train_on_text(steps=1)
        self.trireme("prepare", self.folder / "text.txt", "--out", self.folder / "bytes", "--tokenizer", "bytes")
        shown = self.trireme("eval", self.run_folder, "--data", f"{self.folder}/bytes/valid*.bin", status=2)
        self.assertIn("another tokenizer (bytes)", shown)

    def test_eval_of_less_samples_than_a_batch_costs_no_more_memory(self):
        self.prepare("--tokenizer", "bytes")
        self.train_on_text(steps=1)
        self.assertEqual(self.evaluate(self.run_folder, "--micro", 10**9), self.evaluate(self.run_folder, "--micro", 100))

    def test_prepare_is_cached_by_inputs_and_settings(self):
        def shards():
            return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in (self.folder / "tokens").glob("*.bin")}

        self.prepare("--tokenizer", "bytes")
        before = shards()
        self.assertGreaterEqual(len(before), 2)
        self.prepare("--tokenizer", "bytes")
        self.assertEqual(shards(), before)
        write_text(self.folder / "text.txt", seed=5)
        self.prepare("--tokenizer", "bytes")
        self.assertNotEqual(shards(), before)

    def test_prepare_reads_json_lines(self):
        write_text(self.folder / "plain.txt", lines=100)
        lines = (self.folder / "plain.txt").read_text().splitlines()
        jsonl = self.make_file("text.jsonl", "".join(json.dumps({"text": line, "id": i}) + "\n" for i, line in enumerate(lines)))
        self.trireme("prepare", jsonl, "--out", self.folder / "tokens", "--tokenizer", "bytes")
        shards = b"".join(file.read_bytes()[1024:] for file in sorted((self.folder / "tokens").glob("*.bin")))
        decoded = bytes(shards[::2])
        for line in lines[:5]:
            self.assertIn(line.encode(), decoded)
        self.assertNotIn(b'"id"', decoded)


class Inspect(CommandTest):
    def test_checkpoint_shard_and_config(self):
        config = self.make_config(run={"steps": 2})
        self.trireme("train", config)
        shown = self.trireme("inspect", self.checkpoint(2))
        self.assertRegex(shown, r"wte\.weight")
        self.assertRegex(shown, rf"\[{VOCAB}, 32\]")
        shard = self.trireme("inspect", self.folder / "train_000.bin")
        self.assertIn("20000", shard.replace(",", ""))
        self.assertIn("1 file of 1 rank,", shown)
        resolved = self.trireme("inspect", config)
        self.assertRegex(resolved, r"weight_decay")

    def test_something_else(self):
        self.assertIn("notes.txt", self.trireme("inspect", self.make_file("notes.txt", "hello"), status=2))


class HuggingFace(CommandTest):
    def test_round_trip_keeps_every_bit(self):
        self.trireme("train", self.make_config(run={"steps": 3}))
        exported, imported, again = self.folder / "hf", self.folder / "imported", self.folder / "hf2"
        self.trireme("export", self.checkpoint(3), "--out", exported)
        description = json.loads((exported / "config.json").read_text())
        self.assertEqual((description["model_type"], description["n_layer"], description["n_embd"]), ("gpt2", 2, 32))
        self.trireme("import", exported, "--out", imported)
        self.trireme("export", imported, "--out", again)
        self.assertEqual((again / "model.safetensors").read_bytes(), (exported / "model.safetensors").read_bytes())
        data = ["--data", f"{self.folder}/valid*.bin", "--json"]
        losses = [json.loads(self.trireme_stdout("eval", c, *data))["loss"] for c in (self.checkpoint(3), imported)]
        self.assertEqual(losses[0], losses[1])

    def test_import_of_something_else(self):
        self.make_file("config.json", '{"model_type": "bert"}')
        self.assertIn("bert", self.trireme("import", self.folder, "--out", self.folder / "imported", status=2))


class Bench(CommandTest):
    def test_kernels_as_a_table_and_as_json(self):
        self.assertIn("GFLOP/s", self.trireme("bench", "--quick"))
        results = json.loads(self.trireme_stdout("bench", "--quick", "--json"))
        self.assertIn("gflop", json.dumps(results).lower())


if __name__ == "__main__":
    unittest.main()
