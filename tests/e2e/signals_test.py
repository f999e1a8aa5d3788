"""Signals: SIGINT and SIGTERM write a checkpoint and end cleanly; SIGUSR1 writes one and goes on."""
import signal
import time
import unittest

from harness import CommandTest, handles

ENDLESS = {"steps": 1000000}


class Signals(CommandTest):
    def stop_with(self, number, *arguments):
        process = self.start(*arguments)
        self.wait_for_step(3)
        process.send_signal(number)
        self.finish(process)
        last = max(self.metrics())
        self.assertEqual(self.checkpoints(), [last])
        return last

    def test_sigint_writes_a_checkpoint_and_ends(self):
        config = self.make_config(run=ENDLESS)
        last = self.stop_with(signal.SIGINT, "train", config)
        self.trireme("train", config, "--set", f"run.steps={last + 2}")
        self.assertEqual(sorted(self.metrics()), list(range(1, last + 3)))

    def test_sigterm_writes_a_checkpoint_and_ends(self):
        self.stop_with(signal.SIGTERM, "train", self.make_config(run=ENDLESS))

    def test_sigint_to_the_launcher_ends_all_ranks(self):
        self.stop_with(signal.SIGINT, "launch", self.make_config(run=ENDLESS), "-n", 2)

    def test_sigterm_to_the_launcher_ends_all_ranks(self):
        self.stop_with(signal.SIGTERM, "launch", self.make_config(run=ENDLESS), "-n", 2)

    def test_sigint_while_it_starts_counts(self):
        process = self.start("train", self.make_config(run=ENDLESS))
        self.wait_for(lambda: handles(process.pid, signal.SIGUSR2), "the handlers")
        process.send_signal(signal.SIGINT)
        self.finish(process)
        self.assertEqual(self.checkpoints(), [max(self.metrics())])

    def test_sigint_to_the_launcher_while_ranks_start_counts(self):
        config = self.make_config(run=ENDLESS)
        for started in (0, 1):  # mpirun alone, which forks soon; then the last rank, before its handlers
            process = self.start("launch", config, "-n", 2)
            if started:
                self.rank(1)
            else:
                self.wait_for(lambda: self.processes("TRIREME_TERMINAL=0"), "mpirun")
            process.send_signal(signal.SIGINT)
            self.finish(process)
            self.assertEqual(self.checkpoints()[-1], max(self.metrics()))

    def test_sigusr1_to_the_launcher_while_ranks_start_counts(self):
        process = self.start("launch", self.make_config(run=ENDLESS), "-n", 2)
        self.rank(1)
        process.send_signal(signal.SIGUSR1)
        self.wait_for(self.checkpoints, "a checkpoint")
        process.send_signal(signal.SIGINT)
        self.finish(process)

    def goes_on_after_sigusr1(self, *arguments):
        process = self.start(*arguments)
        self.wait_for_step(2)
        process.send_signal(signal.SIGUSR1)
        self.wait_for(self.checkpoints, "a checkpoint")
        written = self.checkpoints()[-1]
        self.wait_for_step(written + 2)
        process.send_signal(signal.SIGINT)
        self.finish(process)
        self.assertEqual(self.checkpoints(), [written, max(self.metrics())])

    def test_sigusr1_writes_a_checkpoint_and_goes_on(self):
        self.goes_on_after_sigusr1("train", self.make_config(run=ENDLESS))

    def test_many_signals_while_it_computes_do_no_harm(self):
        # oneDNN's products of this size move the stack pointer into the heap, where a handler's frame would overwrite it.
        wide = {"width": 256, "layers": 4, "heads": 8}
        process = self.start("train", self.make_config(model=wide, run=ENDLESS, checkpoint={"keep": 1}))
        self.wait_for_step(3)
        for _ in range(200):
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.01)
            self.assertIsNone(process.poll(), self.output())
        process.send_signal(signal.SIGINT)
        self.finish(process)

    def test_sigusr1_to_the_launcher(self):
        self.goes_on_after_sigusr1("launch", self.make_config(run=ENDLESS), "-n", 2)


if __name__ == "__main__":
    unittest.main()
