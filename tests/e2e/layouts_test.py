"""Layouts of real processes: every mix of parallelism learns the same, and its checkpoints serve every command alike."""
import array
import json
import math
import re
import unittest

from harness import VOCAB, CommandTest, write_text

LAYOUTS = {
    "sequence2_data2": (4, {"tensor": 2, "sequence": True}),
    "zb_h1_data2": (4, {"pipeline": 2, "schedule": "zb-h1"}),
    "zb_v_tensor2": (4, {"pipeline": 2, "tensor": 2, "schedule": "zb-v"}),
    "context2_pipeline2": (4, {"context": 2, "pipeline": 2, "schedule": "interleaved"}),
}
MODEL = {"layers": 4, "heads": 3, "width": 48, "dropout": 0.1, "vocab": VOCAB + 2}
OPTIM = {"lr": 0.002, "eps": 1e-4}


class Layouts(CommandTest):
    def train(self, name, ranks, parallel, **run):
        out = self.folder / name
        config = self.make_config(f"{name}.yaml", model=MODEL, optim=OPTIM, parallel=parallel,
                                  run={"steps": 20, "eval_every": 10, "out": str(out), **run})
        self.trireme("launch", config, "-n", ranks)
        return out

    def learns_the_same(self, name):
        one = self.train("one", 1, {})
        other = self.train(name, *LAYOUTS[name])
        expected = self.losses(one)
        self.assertEqual(sorted(self.losses(other)), sorted(expected))
        for step, loss in expected.items():
            self.assertAlmostEqual(self.losses(other)[step], loss, delta=1e-5 * loss, msg=f"step {step}")
        self.assertRegex(self.output(), r"rank +host +device")
        self.have_the_same_weights(one, other)

    def weights(self, run):
        """By name, of the last checkpoint, as Hugging Face has them."""
        self.trireme("export", run, "--out", run / "exported")
        contents = (run / "exported/model.safetensors").read_bytes()
        start = 8 + int.from_bytes(contents[:8], "little")
        arrays = {}
        for name, tensor in json.loads(contents[8:start]).items():
            if name == "__metadata__":
                continue
            begin, end = tensor["data_offsets"]
            self.assertEqual(tensor["dtype"], "F32")
            arrays[name] = array.array("f", contents[start + begin:start + end])
        return arrays

    def have_the_same_weights(self, one, other):
        expected, found = self.weights(one), self.weights(other)
        self.assertEqual(sorted(found), sorted(expected))
        self.assertGreater(len(expected), 4 * 12)
        for name, values in expected.items():
            norm = math.sqrt(sum(x * x for x in values))
            off = math.sqrt(sum((x - y) ** 2 for x, y in zip(values, found[name], strict=True)))
            self.assertLessEqual(off, 1e-5 * norm, name)

    def test_weights_of_a_checkpoint_start_any_layout(self):
        source = self.train("source", 1, {})
        def first_losses(name, ranks, parallel):
            config = self.make_config(f"{name}.yaml", model=MODEL, optim=OPTIM, parallel=parallel, run={"steps": 3, "out": str(self.folder / name)},
                                      checkpoint={"init_from": str(self.checkpoint(20, source))})
            self.trireme("launch", config, "-n", ranks)
            return self.losses(self.folder / name)
        expected = first_losses("alone", 1, {})
        self.assertLess(expected[1], 0.9 * self.losses(source)[1], "it has learnt something")
        for name, ranks, parallel in (("tensor3", 3, {"tensor": 3}), ("zbv_context", 4, {"pipeline": 2, "context": 2, "schedule": "zb-v"})):
            for step, loss in first_losses(name, ranks, parallel).items():
                self.assertAlmostEqual(loss, expected[step], delta=1e-5 * loss, msg=f"{name}, step {step}")

    def test_sequence_parallel(self):
        self.learns_the_same("sequence2_data2")

    def test_zero_bubble_pipeline(self):
        self.learns_the_same("zb_h1_data2")

    def test_pipeline_of_tensor_ranks(self):
        self.learns_the_same("zb_v_tensor2")

    def test_context_and_pipeline(self):
        self.learns_the_same("context2_pipeline2")

    def on_ranks(self, ranks, *arguments):
        """What the command prints to standard output on `ranks` processes."""
        done = self.mpirun(ranks, *arguments)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_generate_and_eval_are_the_same_on_every_layout(self):
        write_text(self.folder / "text.txt")
        self.trireme("prepare", self.folder / "text.txt", "--out", self.folder / "tokens", "--tokenizer", "bytes")
        config = self.make_config(model={**MODEL, "vocab": 0, "kv_heads": 1}, run={"steps": 30},
                                  data={"train": f"{self.folder}/tokens/train*.bin", "valid": f"{self.folder}/tokens/valid*.bin"})
        self.trireme("launch", config, "-n", 2, "--set", "parallel.pipeline=2")
        sample = ["generate", self.run_folder, "--prompt", "The oars", "--tokens", 40, "--seed", 3]
        score = ["eval", self.run_folder, "--data", f"{self.folder}/tokens/valid*.bin", "--json"]
        text, loss = self.trireme_stdout(*sample), json.loads(self.trireme_stdout(*score))["loss"]
        self.assertEqual(len(text), len("The oars") + 40 + 1)
        for layout in (["--tensor", 2], ["--tensor", 3], ["--pipeline", 2], ["--context", 2], ["--tensor", 2, "--pipeline", 2],
                       ["--context", 2, "--pipeline", 2], ["--context", 2, "--tensor", 2]):
            ranks = math.prod(layout[1::2])
            self.assertEqual(self.on_ranks(ranks, *sample, *layout), text, layout)
            found = json.loads(self.on_ranks(ranks, *score, *layout))
            self.assertAlmostEqual(found["loss"], loss, delta=1e-5 * loss, msg=layout)
        # Replicas share the data, or as much of it as is asked for.
        part = [*score, "--batches", 2, "--micro", 3]
        some = json.loads(self.trireme_stdout(*part))
        self.assertEqual(some["tokens"], 6 * 32)
        for arguments, expected in ((score, {"loss": loss}), (part, some)):
            found = json.loads(self.on_ranks(2, *arguments))
            self.assertAlmostEqual(found["loss"], expected["loss"], delta=1e-5 * loss)
            self.assertEqual(found["tokens"], expected.get("tokens", found["tokens"]))

    def test_plan_shows_what_each_rank_would_do(self):
        config = self.make_config(model=MODEL, parallel={"pipeline": 2, "tensor": 2, "schedule": "zb-h1"})
        shown = self.trireme_stdout("plan", config, "-n", 8, "--schedule", "--svg", self.folder / "plan.svg")
        self.assertIn("data 2 x pipeline 2 x tensor 2", shown)
        self.assertEqual(len(re.findall(r"(?m)^ +\d+ .*(embedding|classifier)", shown)), 8)
        self.assertRegex(shown, r"idle +\d+\.\d%")
        self.assertIn("<svg", (self.folder / "plan.svg").read_text(encoding="utf-8"))

    def test_a_measured_run_is_compared_with_its_own_layout_alone(self):
        parallel = {"pipeline": 2, "tensor": 2, "schedule": "1f1b"}
        out = self.train("traced", 4, parallel, steps=3, trace=True)
        config = self.folder / "traced.yaml"
        self.assertIn("measured: idle", self.trireme_stdout("plan", config, "-n", 4, "--run", out))
        # Other passes; the same in another order; tensor ranks for stages; other stages; another model.
        for ranks, changes in ((4, ["parallel.schedule=zb-v"]), (4, ["parallel.schedule=gpipe"]),
                               (4, ["parallel.tensor=1", "parallel.pipeline=4"]), (4, ["parallel.stages=[1,3]"]), (4, ["model.width=96"])):
            overrides = [part for change in changes for part in ("--set", change)]
            text = self.trireme("plan", config, "-n", ranks, "--run", out, *overrides, status=2)
            self.assertIn("give the experiment file, -n and --set that the run had", text)

    def test_layouts_that_cannot_work_say_which_would(self):
        cases = [
            ({"tensor": 4}, 4, "set parallel.tensor to 3 or less"),
            ({"pipeline": 2, "stages": [1, 2]}, 2, "4"),
            ({"pipeline": 7}, 7, "6"),
            ({"context": 3}, 3, "parallel.context"),
            ({"tensor": 2, "pipeline": 2}, 6, "tensor 2 = 4 does not divide 6 ranks; launch 4 or 8 ranks"),
            ({"tensor": 3}, 4, "parallel: tensor 3 does not divide 4 ranks; launch 3 or 6 ranks, or choose a size that divides 4"),
            ({"pipeline": 2, "schedule": "1f1"}, 2, "1f1b"),
            ({"pipeline": 2, "schedule": "zb-h1", "chunks": 2}, 2, "parallel.chunks"),
            ({"pipeline": 2, "schedule": "none.csv"}, 2, "parallel.schedule: cannot open none.csv: No such file or directory; give a CSV file"),
        ]
        for parallel, ranks, expected in cases:
            config = self.make_config(model=MODEL, parallel={"tensor": 1, "pipeline": 1, "context": 1, "stages": [], "schedule": "1f1b", **parallel})
            self.assertIn(expected, self.trireme("plan", config, "-n", ranks, status=2), parallel)
        config = self.make_config(model=MODEL)
        table, error = self.trireme("plan", config, "-n", 2, "--memory", 0.001, status=2).split("trireme: error: ")
        self.assertIn("does", table, "it comes first")
        self.assertIn("a rank of this layout needs about", error)
        self.trireme("plan", config, "-n", 2, "--memory", 1)
        self.assertIn("trace-00000.json", self.trireme("plan", config, "-n", 2, "--set", "parallel.pipeline=2", "--run", self.folder, status=2))


if __name__ == "__main__":
    unittest.main()
