"""Layouts of two processes on one GPU, through NCCL and copy engines (see one_gpu.cpp): they learn what one process learns, whether
their exchanges are part of a recorded step or called; a rank that stops or dies ends the run; and what a profiler is told. Nothing here
is about speed: both wait for the GPU."""
import collections
import os
import signal
import subprocess
import time
import unittest

from harness import CommandTest

SHARED = {"LD_PRELOAD": os.environ.get("ONE_GPU_LIBRARY", "")}
BY_SOCKETS = {**SHARED, "ONE_GPU_MACHINES": "2", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
MODEL = {"layers": 4, "heads": 6, "width": 384, "context": 256, "dropout": 0.1}
STEPS = 10
NCCL_ALONE = {"copy_engines": "off"}
ONE_GRAPH = "steps were replayed, as one CUDA graph each"
PIECES = "steps were replayed, as CUDA graphs between which exchanges were called"
LARGE = """
model: {{preset: gpt2-1558m}}
data: {{train: "{folder}/train*.bin"}}
batch: {{global: 4, micro: 2, sequence: 1024}}
parallel: {parallel}
precision: {{compute: bf16}}
run: {{device: cuda, steps: 1000, eval_every: 0, timeout_s: 10, cuda_graph: {cuda_graph}, out: "{out}"}}
checkpoint: {{every: 0, at_end: false}}
"""


def gpu_memory_gib():
    """Of the first GPU; 0 where there is none."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    return int(done.stdout.splitlines()[0]) / 1024


class OneGpu(CommandTest):
    def needs(self, gib):
        if gpu_memory_gib() < gib:
            self.skipTest(f"not run: this needs a GPU with {gib} GiB")

    def train(self, name, ranks, parallel, compute, micro, environment=None, sync=None, **run):
        out = self.folder / f"{name}-{compute}"
        config = self.make_config(f"{out.name}.yaml", model=MODEL, parallel=parallel, sync=sync or {}, precision={"compute": compute},
                                  batch={"global": 32, "micro": micro, "sequence": 256}, optim={"lr": 0.001, "eps": 1e-4},
                                  run={"device": "cuda", "steps": STEPS, "out": str(out), "timeout_s": 30, **run})
        shown = self.trireme("launch", config, "-n", ranks, extra_environment=environment or (SHARED if ranks > 1 else None))
        (out / "shown.txt").write_text(shown)
        return out

    def learns_the_same(self, parallel, micro=4, **run):
        self.needs(4)
        self.make_data(train=100000)
        out = {}
        for compute, tolerance in (("f32", 2e-5), ("bf16", 2e-2)):
            expected = self.losses(self.train("one", 1, {}, compute, 8))
            out[compute] = self.train("two", 2, parallel, compute, micro, **run)
            found = self.losses(out[compute])
            self.assertEqual(sorted(found), list(range(1, STEPS + 1)))
            self.assertLess(expected[STEPS], 0.9 * expected[1])
            for step, loss in expected.items():
                self.assertAlmostEqual(found[step], loss, delta=tolerance * loss, msg=f"{compute}, step {step}")
        return out

    def is_the_step_itself(self, parallel, how, micro=4, cuda_graph="auto", environment=None, sync=None):
        """A replayed step is the one that is launched: what it learns is the same to the last bit."""
        self.needs(4)
        self.make_data(train=100000)
        launched, replayed = (self.train(graph, 2, parallel, "bf16", micro, environment, sync, cuda_graph=graph) for graph in ("off", cuda_graph))
        self.assertIn(how, (replayed / "shown.txt").read_text())
        self.assertNotIn("replayed", (launched / "shown.txt").read_text())
        found, expected = self.metrics(replayed), self.metrics(launched)
        self.assertEqual(sorted(found), list(range(1, STEPS + 1)))
        for step, line in expected.items():
            for key in ("loss", "grad_norm"):
                self.assertEqual(found[step][key], line[key], f"{key} of step {step}")

    def test_data(self):
        out = self.learns_the_same({}, profile={"steps": [6, 7]})
        self.assertIn("comm::sum_parts_kernel", (out["f32"] / "profile-00000.txt").read_text())  # of copies

    def test_tensor(self):
        self.learns_the_same({"tensor": 2}, micro=16)

    def test_data_by_nccl_alone(self):
        self.learns_the_same({}, sync=NCCL_ALONE)

    def test_tensor_by_nccl_alone(self):
        self.learns_the_same({"tensor": 2}, micro=16, sync=NCCL_ALONE)

    def test_sequence(self):
        self.learns_the_same({"tensor": 2, "sequence": True}, micro=16)

    def test_data_by_sockets(self):
        self.learns_the_same({}, sync=NCCL_ALONE, environment=BY_SOCKETS)

    def test_one_graph_of_data_ranks(self):
        self.is_the_step_itself({}, ONE_GRAPH)

    def test_one_graph_of_tensor_ranks(self):
        self.is_the_step_itself({"tensor": 2}, ONE_GRAPH, micro=16, cuda_graph="whole")

    def test_one_graph_of_sequences(self):
        self.is_the_step_itself({"tensor": 2, "sequence": True}, ONE_GRAPH, micro=16, cuda_graph="whole")

    def test_one_graph_by_nccl_alone(self):
        self.is_the_step_itself({"tensor": 2}, ONE_GRAPH, micro=16, sync=NCCL_ALONE)

    def test_pieces_of_tensor_ranks(self):
        self.is_the_step_itself({"tensor": 2, "sequence": True}, PIECES, micro=16)

    def test_pieces_by_sockets(self):
        self.is_the_step_itself({}, PIECES, environment=BY_SOCKETS)

    def test_pieces_of_a_pipeline(self):
        self.is_the_step_itself({"pipeline": 2, "schedule": "1f1b"}, PIECES)

    def test_context(self):
        self.learns_the_same({"context": 2})

    def test_gpipe(self):
        self.learns_the_same({"pipeline": 2, "schedule": "gpipe"})

    def test_one_forward_one_backward(self):
        self.learns_the_same({"pipeline": 2, "schedule": "1f1b"})

    def test_interleaved(self):
        self.learns_the_same({"pipeline": 2, "schedule": "interleaved"})

    def test_zero_bubble(self):
        self.learns_the_same({"pipeline": 2, "schedule": "zb-h1"})

    def test_zero_bubble_in_a_v(self):
        self.learns_the_same({"pipeline": 2, "schedule": "zb-v"})

    def test_ranges_of_operations(self):
        self.needs(4)
        self.make_data(train=100000)
        ranges = self.folder / "ranges"
        self.train("ranges", 1, {}, "bf16", 8, environment={"NVTX_INJECTION64_PATH": os.environ["ONE_GPU_LIBRARY"], "NVTX_RANGES": str(ranges)},
                   cuda_graph="off")
        opened = collections.Counter(ranges.read_text().splitlines())
        products = 2 * MODEL["layers"] * 3 * 4 * STEPS  # two of each block, three passes of four micro-batches
        self.assertGreaterEqual(opened["linear"], products)
        self.assertEqual(opened["update"], STEPS)

    def ends_after(self, what, longest_s, parallel="{}", cuda_graph="auto", how=ONE_GRAPH):
        """With the gradients of a model under way that are more than the GPU's queues hold."""
        self.needs(70)
        self.make_data(train=100000)
        config = self.make_file("large.yaml", LARGE.format(folder=self.folder, out=self.run_folder, parallel=parallel, cuda_graph=cuda_graph))
        shown = self.trireme("launch", config, "-n", 2, "--set", "run.steps=5", "--set", f"run.out={self.folder}/short", timeout_s=90,
                             extra_environment=SHARED)
        self.assertIn(how, shown)
        run = self.start("launch", config, "-n", 2, extra_environment=SHARED)
        self.wait_for(lambda: run.poll() is not None or max(self.metrics(), default=0) >= 5, "step 5, which is replayed", timeout_s=90)
        self.assertIsNone(run.poll(), self.output())
        time.sleep(0.4)
        os.kill(self.rank(1), what)
        begin = time.monotonic()
        shown = self.finish(run, status=None, timeout_s=60)
        self.assertLess(time.monotonic() - begin, longest_s)
        return shown

    def test_a_rank_that_stops_is_given_up(self):
        self.assertIn("nothing is heard of rank 1", self.ends_after(signal.SIGSTOP, 25))

    def test_a_rank_that_stops_while_sums_are_called_is_given_up(self):
        self.assertIn("nothing is heard of rank 1", self.ends_after(signal.SIGSTOP, 25, cuda_graph="pieces", how=PIECES))

    def test_a_tensor_rank_that_stops_is_given_up(self):
        self.assertIn("nothing is heard of rank 1", self.ends_after(signal.SIGSTOP, 35, "{tensor: 2}", "whole"))

    def test_a_rank_that_dies_ends_the_run(self):
        self.assertIn("rank 1 died", self.ends_after(signal.SIGKILL, 15))

    def test_a_tensor_rank_that_dies_ends_the_run(self):
        self.assertIn("rank 1 died", self.ends_after(signal.SIGKILL, 25, "{tensor: 2}", "whole"))

    def test_a_stage_that_stops_is_given_up(self):
        self.assertIn("nothing is heard of rank 1", self.ends_after(signal.SIGSTOP, 25, "{pipeline: 2, schedule: zb-h1}", how=PIECES))


if __name__ == "__main__":
    unittest.main()
