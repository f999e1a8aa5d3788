"""launcher/quickstart on a small text, with the command that is built already."""
import os
import pathlib
import signal
import subprocess
import unittest

from harness import TRIREME, CommandTest, write_text

QUICKSTART = pathlib.Path(__file__).resolve().parents[2] / "launcher" / "quickstart"


class Quickstart(CommandTest):
    def quickstart(self, *arguments, status=0):
        process = self.start(*arguments, command=QUICKSTART)
        return self.finish(process, status, timeout_s=80)

    def test_runs_and_redoes_only_what_is_missing(self):
        text = self.folder / "story.txt"
        write_text(text, lines=3000)
        arguments = [text, "--work", self.folder, "--command", TRIREME, "--set", "model.layers=1", "--set", "model.width=64",
                     "--set", "run.steps=6", "--set", "batch.global=8", "--set", "batch.micro=4"]
        shown = self.quickstart(*arguments)
        self.assertRegex(shown, r"\n\d\.\d{3} bits per byte")
        self.assertIn("And it came to pass", shown)
        run = self.folder / "runs" / "quickstart-story"
        self.assertEqual(len(self.metrics(run)), 6)
        before = (run / "metrics.jsonl").stat().st_mtime_ns

        self.assertIn("Finished before", self.quickstart(*arguments))
        self.assertEqual((run / "metrics.jsonl").stat().st_mtime_ns, before)

        self.assertIn("did you mean", self.quickstart(*arguments, "--set", "run.stepz=7", status=2))
        self.assertTrue((run / "quickstart.done").exists())  # still there

        self.assertIn("kept as", self.quickstart(*arguments, "--set", "run.steps=7"))
        self.assertEqual(len(self.metrics(run)), 7)

    def test_an_interrupted_run_is_not_finished(self):
        text = self.folder / "story.txt"
        write_text(text, lines=300)
        arguments = [text, "--work", self.folder, "--command", TRIREME, "--set", "model.layers=1", "--set", "model.width=64",
                     "--set", "batch.global=8", "--set", "batch.micro=4", "--set", "checkpoint.every=1"]
        run = self.folder / "runs" / "quickstart-story"
        process = self.start(*arguments, command=QUICKSTART, start_new_session=True)
        self.wait_for(lambda: self.checkpoints(run), "a checkpoint")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        self.assertIn("to go on", self.finish(process, status=130))
        self.assertFalse((run / "quickstart.done").exists())
        stopped = self.checkpoints(run)[-1]

        # Another --set would begin a new run: shorten it by the config of the command that it starts.
        short = self.folder / "trireme_short"
        short.write_text(f'#!/bin/sh\ncase "$1" in launch) set -- "$@" --set run.steps={stopped + 2};; esac\n'
                         f'exec "{TRIREME}" "$@"\n')
        short.chmod(0o755)
        arguments[arguments.index(TRIREME)] = short
        shown = self.quickstart(*arguments)
        self.assertIn("resumed from", shown)
        self.assertNotIn("kept as", shown)
        self.assertTrue((run / "quickstart.done").exists())
        self.assertEqual(self.checkpoints(run)[-1], stopped + 2)

    def test_wrong_use(self):
        self.assertIn("usage", self.quickstart("--nonsense", status=2))
        self.assertIn("nowhere.txt", self.quickstart("nowhere.txt", status=1))

    def test_packages_that_may_not_be_installed_are_listed(self):
        """install_packages with an apt-get and a dpkg-query that know nothing, and no right to install."""
        script = QUICKSTART.parents[1] / "cmake" / "install_packages"
        tools = self.folder / "tools"
        tools.mkdir()
        for name in ("apt-get", "dpkg-query", "sudo"):
            (tools / name).write_text("#!/bin/sh\nexit 1\n")
            (tools / name).chmod(0o755)
        environment = {**self.environment(), "PATH": f"{tools}:{os.environ['PATH']}"}
        out = self.folder / "output.txt"
        with open(out, "w", encoding="utf-8") as file:
            done = subprocess.run([script, "build"], env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 1)
        shown = out.read_text()
        self.assertRegex(shown, r"libdnnl-dev +oneDNN")
        self.assertRegex(shown, r"sudo apt-get install [^\n]*g\+\+[^\n]*libdnnl-dev")


if __name__ == "__main__":
    unittest.main()
