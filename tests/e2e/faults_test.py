"""What goes wrong while it runs: killed and stopped ranks, a full disk, a damaged checkpoint."""
import os
import re
import resource
import signal
import subprocess
import unittest

from harness import CommandTest

ENDLESS = {"steps": 1000000}
TIMEOUT_S = 5
# A model whose checkpoint, of about 40 MB, takes a while to write.
WIDE = {"width": 256, "layers": 4, "heads": 8}

# Who names the rank that is gone: mpirun, or Trireme (with the operation that it did not join).
MPIRUN_SAW_A_KILLED_RANK = r"(?m)^mpirun noticed that process rank {rank} with PID \d+ on node \S+ exited on signal 9 \(Killed\)"
TRIREME_NAMES_THE_RANK = (r"(?m)^trireme: error: rank \d+: (?:all_reduce|broadcast|barrier|all_gather|reduce_scatter) "
                          r"'[^']+' was not \w+ by rank {rank}")


class KilledRank(CommandTest):
    def launch(self, timeout_s=TIMEOUT_S, **changes):
        run = {**ENDLESS, "timeout_s": timeout_s}
        return self.start("launch", self.make_config(run=run, **changes), "-n", 2)

    def expect_the_others_to_end(self, process, rank):
        """mpirun sees the death first and ends the others before Trireme's time-out: it is mpirun that names the rank."""
        shown = self.finish(process, status=128 + signal.SIGKILL, timeout_s=TIMEOUT_S + 15)
        self.assertRegex(shown, MPIRUN_SAW_A_KILLED_RANK.format(rank=rank))
        for line in re.findall(r"(?m)^trireme: error:.*", shown):  # one that reported before its end
            self.assertRegex(line, TRIREME_NAMES_THE_RANK.format(rank=rank))
        # mpirun does not wait for what it kills; by itself a rank would stay for the time-out.
        self.wait_for(lambda: not self.processes(), "the other rank to end", TIMEOUT_S - 1)

    def test_at_the_start(self):
        process = self.launch()
        os.kill(self.rank(1), signal.SIGKILL)
        self.expect_the_others_to_end(process, 1)

    def test_in_a_step(self):
        process = self.launch()
        self.wait_for_step(3)
        os.kill(self.rank(1), signal.SIGKILL)
        self.expect_the_others_to_end(process, 1)

    def test_rank_0_in_a_step(self):
        process = self.launch()
        self.wait_for_step(3)
        os.kill(self.rank(0), signal.SIGKILL)
        self.expect_the_others_to_end(process, 0)

    def kill_while_a_checkpoint_is_written(self, rank):
        # The others wait while one rank writes, so the time-out leaves room for a slow disk.
        process = self.launch(timeout_s=30, model=WIDE, checkpoint={"every": 1, "keep": 2})
        killed = self.rank(rank)
        self.wait_for(lambda: self.checkpoints() and self.unfinished_checkpoints(), "a checkpoint being written", 60)
        os.kill(killed, signal.SIGKILL)
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
        process = self.launch()
        self.wait_for_step(3)
        stopped = self.rank(1)
        os.kill(stopped, signal.SIGSTOP)
        try:
            shown = self.finish(process, status=None, timeout_s=TIMEOUT_S + 15)
        finally:
            if stopped in self.processes():
                os.kill(stopped, signal.SIGCONT)
        self.assertRegex(shown, TRIREME_NAMES_THE_RANK.format(rank=1) + rf" within {TIMEOUT_S} s")


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

    def test_a_truncated_checkpoint_is_an_error_when_asked_for_by_name(self):
        config = self.make_config(run={"steps": 2})
        self.trireme("train", config)
        file = next(self.checkpoint(2).glob("*.safetensors"))
        os.truncate(file, file.stat().st_size // 2)
        shown = self.trireme("train", config, "--set", f"checkpoint.resume={self.checkpoint(2)}", status=None)
        self.assertIn(file.name, shown)


if __name__ == "__main__":
    unittest.main()
