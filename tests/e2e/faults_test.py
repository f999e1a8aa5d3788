"""What goes wrong while it runs: killed and stopped ranks, a full disk, a damaged checkpoint."""
import os
import re
import resource
import signal
import subprocess
import time
import unittest

from harness import TRIREME, CommandTest, handles

ENDLESS = {"steps": 1000000}
TIMEOUT_S = 5
# A model whose checkpoint, of about 40 MB, takes a while to write.
WIDE = {"width": 256, "layers": 4, "heads": 8}

# What a survivor says of the rank that is gone: with the operation that it was in, or, where it was in none, the last one.
OPERATION = r"(?:all_reduce|broadcast|barrier|all_gather|reduce_scatter|send|recv) '.+?'"
SURVIVOR_NAMES_THE_RANK = (
    r"(?m)^trireme: error: rank {survivor}(?:: (?:MPI_Init|" + OPERATION + r") was given up: rank {rank} died"
    r"| was in (?:" + OPERATION + r"|no operation \(the last was " + OPERATION + r", [^)]*\)) when rank {rank} died: its process is gone)")
TRIREME_NAMES_THE_RANK = r"(?m)^trireme: error: rank \d+: " + OPERATION + r" was not \w+ by rank {rank}"
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


class KilledRank(CommandTest):
    """mpirun ends the others within two seconds of a rank's death; they say what they were doing before."""

    def launch(self, timeout_s=TIMEOUT_S, **changes):
        run = {**ENDLESS, "timeout_s": timeout_s}
        return self.start("launch", self.make_config(run=run, **changes), "-n", 2)

    def kill_in_a_step(self, rank, **parallel):
        process = self.launch(parallel=parallel)
        self.wait_for_step(3)
        self.kill(rank)
        self.expect_the_others_to_end(process, rank)

    def kill(self, rank):
        os.kill(self.rank(rank), signal.SIGKILL)

    def expect_the_others_to_end(self, process, rank):
        named = SURVIVOR_NAMES_THE_RANK.format(survivor=1 - rank, rank=rank)
        self.wait_for(lambda: re.search(named, self.output()), "the survivor's message", TIMEOUT_S)
        shown = self.finish(process, status=None, timeout_s=30)  # `launch` gives an mpirun that hangs ten seconds
        # The killed rank's, or the survivor's where it ended before mpirun noticed.
        self.assertIn(process.returncode, (128 + signal.SIGKILL, 1), shown)
        for line in re.findall(r"(?m)^trireme: error:.*", shown):
            self.assertRegex(line, named)
        # mpirun does not wait for what it kills; by itself a rank would stay for the time-out.
        self.wait_for(lambda: not self.processes(), "the other rank to end", TIMEOUT_S - 1)

    def test_at_the_start(self):
        process = self.launch()
        survivor = self.rank(0)
        self.wait_for(lambda: handles(survivor, signal.SIGUSR2), "the handlers of rank 0")
        self.kill(1)
        self.expect_the_others_to_end(process, 1)

    def test_in_a_step(self):
        process = self.launch()
        self.wait_for_step(3)
        self.kill(1)
        self.expect_the_others_to_end(process, 1)

    def test_rank_0_in_a_step(self):
        process = self.launch()
        self.wait_for_step(3)
        self.kill(0)
        self.expect_the_others_to_end(process, 0)

    def test_a_stage_of_a_pipeline(self):
        self.kill_in_a_step(1, pipeline=2, schedule="zb-h1")

    def test_the_first_stage_of_a_pipeline(self):
        self.kill_in_a_step(0, pipeline=2, schedule="zb-v")

    def test_a_tensor_rank(self):
        self.kill_in_a_step(1, tensor=2, sequence=True)

    def test_a_context_rank(self):
        self.kill_in_a_step(1, context=2)

    def test_in_a_step_under_mpirun(self):
        config = self.make_config(run={**ENDLESS, "timeout_s": TIMEOUT_S})
        process = self.start("-n", 2, "--oversubscribe", TRIREME, "train", config, command="mpirun", extra_environment=AS_ROOT)
        self.wait_for_step(3)
        self.kill(1)
        self.expect_the_others_to_end(process, 1)

    def kill_while_a_checkpoint_is_written(self, rank):
        # The others wait while one rank writes, so the time-out leaves room for a slow disk.
        process = self.launch(timeout_s=30, model=WIDE, checkpoint={"every": 1, "keep": 2})
        self.rank(rank)
        self.wait_for(lambda: self.checkpoints() and self.unfinished_checkpoints(), "a checkpoint being written", 60)
        self.kill(rank)
        self.expect_the_others_to_end(process, rank)
        # Whatever has a checkpoint's name is whole, and the run goes on from the newest.
        newest = self.checkpoints()[-1]
        self.trireme("inspect", "--verify", self.checkpoint(newest))
        self.trireme("launch", self.folder / "config.yaml", "-n", 2, "--set", f"run.steps={newest + 1}")
        self.assertEqual(self.checkpoints()[-1], newest + 1)
        self.assertEqual(self.unfinished_checkpoints(), [])

    def test_rank_0_while_a_checkpoint_is_written(self):
        self.kill_while_a_checkpoint_is_written(0)

    def test_rank_1_while_a_checkpoint_is_written(self):
        self.kill_while_a_checkpoint_is_written(1)

    def test_a_stopped_rank_is_noticed_within_the_timeout(self):
        self.stop_rank_1()

    def test_a_stopped_stage_is_noticed_within_the_timeout(self):
        self.stop_rank_1(parallel={"pipeline": 2, "schedule": "1f1b"})

    def stop_rank_1(self, **changes):
        process = self.launch(**changes)
        self.wait_for_step(3)
        stopped = self.rank(1)
        os.kill(stopped, signal.SIGSTOP)
        try:
            shown = self.finish(process, status=None, timeout_s=TIMEOUT_S + 15)
        finally:
            if stopped in self.processes():
                os.kill(stopped, signal.SIGCONT)
        self.assertRegex(shown, TRIREME_NAMES_THE_RANK.format(rank=1) + rf" within {TIMEOUT_S} s")
        self.assertNotRegex(shown, TRIREME_NAMES_THE_RANK.format(rank=0))  # by the one that was stopped, and then goes on


class Crash(CommandTest):
    def test_a_crash_prints_where_it_happened(self):
        process = self.start("train", self.make_config(run=ENDLESS))
        self.wait_for_step(2)
        process.send_signal(signal.SIGSEGV)
        self.assertRegex(self.finish(process, status=-signal.SIGSEGV), r"SIGSEGV.*stack trace: \*\*\*\n( +@ .*\n)+")


class FullDisk(CommandTest):
    """Room for one checkpoint and not for two: the run fails, says so, and the first one stays whole."""

    def setUp(self):
        super().setUp()
        self.mounted = False

    def tearDown(self):
        if self.mounted:
            subprocess.run(["umount", "--lazy", self.run_folder], check=True)
        super().tearDown()

    def test_checkpoint_on_a_full_disk(self):
        config = self.make_config(run={"steps": 4}, checkpoint={"every": 2})
        self.trireme("train", config)
        bytes_of_one = sum(file.stat().st_size for file in self.checkpoint(4).iterdir())
        largest_file = max(file.stat().st_size for file in self.checkpoint(4).iterdir())
        self.run_folder.rename(self.folder / "measured")
        self.run_folder.mkdir()
        kilobytes = bytes_of_one * 3 // 2 // 1024
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(self.run_folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
        if self.mounted:
            shown = self.trireme("train", config, status=1)
            self.assertRegex(shown, r"(?i)no space left")
            self.assertEqual(self.checkpoints(), [2])
            self.trireme("inspect", "--verify", self.checkpoint(2))
        else:  # no right to mount: a limit on a file's size gives the same kind of error
            shown = self.trireme("train", config, status=1, preexec_fn=lambda: limit_file_size(largest_file // 2))
            self.assertRegex(shown, r"(?i)file too large")
            self.assertEqual(self.checkpoints(), [])
        self.assertIn("step-0000000", shown)


def limit_file_size(size_bytes):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


SLOW_TIMEOUT_S = 5


class SlowDisk(CommandTest):
    """Writing a checkpoint may take longer than run.timeout_s: that is for checkpoint.timeout_s to bound."""

    def stop_rank_1_while_a_checkpoint_is_written(self, **checkpoint):
        config = self.make_config(model=WIDE, run={**ENDLESS, "timeout_s": SLOW_TIMEOUT_S},
                                  checkpoint={"every": 20, "keep": 1, **checkpoint})
        process = self.start("launch", config, "-n", 2)
        slow = self.rank(1)
        for _ in range(20):
            self.wait_for(self.unfinished_checkpoints, "a checkpoint being written", 60)
            os.kill(slow, signal.SIGSTOP)  # as a disk that takes no data
            time.sleep(0.1)
            if self.unfinished_checkpoints():  # else its part was written before
                return process, slow
            os.kill(slow, signal.SIGCONT)
        self.fail("all checkpoints were written before rank 1 could be stopped")

    def test_a_disk_slower_than_the_time_out_of_a_step(self):
        process, slow = self.stop_rank_1_while_a_checkpoint_is_written()
        time.sleep(SLOW_TIMEOUT_S + 3)
        os.kill(slow, signal.SIGCONT)
        self.wait_for(self.checkpoints, "the checkpoint", 30)
        process.send_signal(signal.SIGINT)
        self.finish(process, timeout_s=60)

    def test_a_disk_that_never_answers_ends_the_run(self):
        process, slow = self.stop_rank_1_while_a_checkpoint_is_written(timeout_s=SLOW_TIMEOUT_S + 3)
        try:
            shown = self.finish(process, status=None, timeout_s=60)
        finally:
            if slow in self.processes():
                os.kill(slow, signal.SIGCONT)
        self.assertRegex(shown, TRIREME_NAMES_THE_RANK.format(rank=1) + f" within {SLOW_TIMEOUT_S + 3} s")


class DamagedCheckpoint(CommandTest):
    def test_a_flipped_byte_is_found_and_the_older_checkpoint_taken(self):
        config = self.make_config(run={"steps": 6}, checkpoint={"every": 2})
        self.trireme("train", config)
        losses = self.losses()
        damaged = max(self.checkpoint(6).glob("*.safetensors"), key=lambda file: file.stat().st_size)
        contents = bytearray(damaged.read_bytes())
        contents[-100] ^= 0x10
        damaged.write_bytes(contents)
        shown = self.trireme("train", config, "--set", "run.steps=8")
        self.assertRegex(shown, r"step-00000006[^\n]*checksum|checksum[^\n]*step-00000006")
        self.assertRegex(shown, r"step-00000004")
        again = self.losses()
        self.assertEqual({step: again[step] for step in losses}, losses)
        self.assertEqual(max(again), 8)

    def test_ranks_check_together_and_skip_what_any_of_them_finds_damaged(self):
        config = self.make_config(run={"steps": 6}, checkpoint={"every": 2})
        self.trireme("launch", config, "-n", 4)
        for step, rank in ((6, 2), (4, 1)):  # each rank checks about the part that it wrote
            file = next(self.checkpoint(step).glob(f"rank-0000{rank}-*.safetensors"))
            contents = bytearray(file.read_bytes())
            contents[-100] ^= 0x10
            file.write_bytes(contents)
        shown = self.trireme("launch", config, "-n", 4, "--set", "run.steps=7")
        self.assertRegex(shown, r"skipping the checkpoint [^\n]*step-00000006: [^\n]*rank-00002[^\n]*checksum")
        self.assertRegex(shown, r"skipping the checkpoint [^\n]*step-00000004: [^\n]*rank-00001[^\n]*checksum")
        self.assertRegex(shown, r"resumed from [^\n]*step-00000002")
        self.assertEqual(shown.count("skipping the checkpoint"), 2, "said once, by rank 0")

    def test_a_truncated_checkpoint_is_an_error_when_asked_for_by_name(self):
        config = self.make_config(run={"steps": 2})
        self.trireme("train", config)
        file = next(self.checkpoint(2).glob("*.safetensors"))
        os.truncate(file, file.stat().st_size // 2)
        shown = self.trireme("train", config, "--set", f"checkpoint.resume={self.checkpoint(2)}", status=None)
        self.assertIn(file.name, shown)


if __name__ == "__main__":
    unittest.main()
