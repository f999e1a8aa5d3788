"""Training through the command: it learns, reports, resumes bit for bit, and is the same on every number of ranks."""
import json
import math
import unittest

from harness import VOCAB, CommandTest


def begins_within(span, other):
    return other["ts"] <= span["ts"] < other["ts"] + other["dur"]


class Train(CommandTest):
    def test_learns_and_reports(self):
        config = self.make_config(run={"steps": 60, "eval_every": 20}, checkpoint={"every": 30})
        self.trireme("train", config)
        metrics = self.metrics()
        self.assertEqual(sorted(metrics), list(range(1, 61)))
        self.assertAlmostEqual(metrics[1]["loss"], math.log(VOCAB), delta=0.3)
        self.assertLess(metrics[60]["loss"], 0.6 * metrics[1]["loss"])
        for key in ("step", "loss", "grad_norm", "lr", "tokens", "tokens_per_s", "step_ms"):
            self.assertIn(key, metrics[60])
        self.assertEqual(metrics[60]["tokens"], 60 * 8 * 32)
        lines = [json.loads(line) for line in (self.run_folder / "metrics.jsonl").read_text().splitlines()]
        validated = [line["step"] for line in lines if "valid_loss" in line]
        self.assertEqual(validated, [20, 40, 60])
        self.assertEqual(self.checkpoints(), [30, 60])
        self.assertTrue(list(self.run_folder.rglob("*tfevents*")), "no TensorBoard event file")

    def test_set_overrides_the_file(self):
        self.trireme("train", self.make_config(), "--set", "run.steps=2", "--set", "optim.lr=0.0005")
        self.assertEqual(sorted(self.metrics()), [1, 2])
        self.assertAlmostEqual(self.metrics()[2]["lr"], 0.0005, places=9)

    def test_resume_is_bit_for_bit(self):
        self.trireme("train", self.make_config(run={"steps": 8}, checkpoint={"every": 4}))
        whole = self.losses()
        other = self.folder / "resumed"
        first = self.make_config("first.yaml", run={"steps": 4, "out": str(other)})
        second = self.make_config("second.yaml", run={"steps": 8, "out": str(other)})
        self.trireme("train", first)
        self.trireme("train", second)
        self.assertEqual(self.losses(other), whole)
        self.assertIn(8, self.checkpoints(other))
        files = sorted(path.name for path in self.checkpoint(8).glob("*.safetensors"))
        self.assertTrue(files)
        for name in files:
            self.assertEqual((self.checkpoint(8) / name).read_bytes(), (self.checkpoint(8, other) / name).read_bytes(), name)

    def test_every_number_of_ranks_gives_the_same_losses(self):
        losses = {}
        for ranks in (1, 2, 4):
            run = self.folder / f"ranks{ranks}"
            self.trireme("launch", self.make_config(f"{ranks}.yaml", run={"out": str(run)}), "-n", ranks)
            losses[ranks] = self.losses(run)
            self.assertEqual(sorted(losses[ranks]), list(range(1, 11)))
        for ranks in (2, 4):
            for step, loss in losses[1].items():
                self.assertAlmostEqual(losses[ranks][step], loss, delta=1e-5 * loss, msg=f"{ranks} ranks, step {step}")

    def test_a_run_goes_on_with_another_number_of_ranks(self):
        self.trireme("train", self.make_config(run={"steps": 8}))
        other = self.folder / "other"
        first = self.make_config("first.yaml", run={"steps": 4, "out": str(other)})
        second = self.make_config("second.yaml", run={"steps": 8, "out": str(other)})
        self.trireme("launch", first, "-n", 2)
        self.trireme("train", second)
        for step, loss in self.losses().items():
            self.assertAlmostEqual(self.losses(other)[step], loss, delta=1e-5 * loss, msg=f"step {step}")

    def test_init_from_starts_with_the_weights_of_a_checkpoint(self):
        self.trireme("train", self.make_config(run={"steps": 40}))
        other = self.folder / "other"
        config = self.make_config("other.yaml", run={"steps": 1, "out": str(other)},
                                  checkpoint={"init_from": str(self.checkpoint(40))})
        self.trireme("train", config)
        self.assertLess(self.losses(other)[1], 0.8 * self.losses()[1])

    def test_trace_shows_gradients_sent_during_the_backward_pass_of_each_rank(self):
        config = self.make_config(run={"steps": 4, "trace": True}, model={"width": 256, "layers": 6},
                                  sync={"bucket_mb": 1, "overlap": True})
        self.trireme("launch", config, "-n", 2)
        traces = sorted(self.run_folder.rglob("*trace*.json"))
        self.assertEqual(len(traces), 2, traces)
        for path in traces:
            events = json.loads(path.read_text())["traceEvents"]
            spans = [event for event in events if event["ph"] == "X"]
            self.assertTrue(any("linear" in span["name"] for span in spans if span["cat"] == "compute"))
            buckets = [span for span in spans if span["cat"] == "communication" and "bucket" in span["name"]]
            self.assertGreater(len({span["name"] for span in buckets}), 2)
            backwards = [span for span in spans if span["cat"] == "step" and span["name"] == "backward"]
            self.assertTrue(any(begins_within(bucket, backward) for bucket in buckets for backward in backwards), path)

    def test_bf16_learns(self):
        self.trireme("train", self.make_config(run={"steps": 60}, precision={"compute": "bf16"}))
        losses = self.losses()
        self.assertLess(losses[60], 0.6 * losses[1])


class Launch(CommandTest):
    def test_dry_run_shows_the_line_and_starts_nothing(self):
        shown = self.trireme("launch", self.make_config(), "-n", 2, "--dry-run")
        self.assertRegex(shown, r"mpirun .*trireme train")
        self.assertFalse(self.run_folder.exists())

    def test_gives_back_the_exit_status(self):
        self.trireme("launch", self.make_config(optim={"kind": "adamm"}), "-n", 2, status=2)


if __name__ == "__main__":
    unittest.main()
