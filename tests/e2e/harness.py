"""What the tests of the command share: a scratch folder, tiny inputs, running `trireme`, and looking at what it left.

Every process that a test starts inherits a marker in its environment, by which tearDown finds those left behind.
"""
import array
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import uuid

TRIREME = os.environ["TRIREME_COMMAND"]
SHARD_MAGIC, SHARD_VERSION = 20240520, 1
VOCAB = 64


def write_shard(path, tokens, magic=SHARD_MAGIC, count=None):
    """One .bin shard in llm.c's format; `magic` and `count` can be made wrong."""
    header = array.array("i", [magic, SHARD_VERSION, len(tokens) if count is None else count] + [0] * 253)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as out:
        header.tofile(out)
        array.array("H", tokens).tofile(out)


def easy_tokens(count, seed=0):
    """Mostly predictable: the successor of x is 5 x + 3, with a random token now and then."""
    rng, x, tokens = random.Random(seed), 1, []
    for _ in range(count):
        tokens.append(x)
        x = rng.randrange(VOCAB) if rng.random() < 0.05 else (5 * x + 3) % VOCAB
    return tokens


def write_text(path, lines=400, seed=0):
    """Text with a small vocabulary of words."""
    rng = random.Random(seed)
    words = "the oars are pulled in time and water falls from blades as rowers breathe together".split()
    with open(path, "w", encoding="utf-8") as out:
        for _ in range(lines):
            out.write(" ".join(rng.choice(words) for _ in range(12)).capitalize() + ".\n")


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid):
    """Of a running process; empty where it has ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") if is_running(pid) else b""
    except (FileNotFoundError, ProcessLookupError):
        return b""


def handles(pid, number):
    """Whether a process has a handler for a signal."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1 == 1


class CommandTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.marker = f"TRIREME_TEST_MARKER={uuid.uuid4().hex}"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="trireme-e2e-"))
        self.run_folder = self.folder / "run"

    def tearDown(self):
        left = self.processes()
        shown = [command for command in map(command_line, left) if command]
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)
        self.assertEqual(shown, [], "processes were left")

    # ---- Inputs ----
    def make_data(self, train=20000, valid=4000):
        write_shard(self.folder / "train_000.bin", easy_tokens(train, seed=1))
        write_shard(self.folder / "valid_000.bin", easy_tokens(valid, seed=2))

    def make_config(self, name="config.yaml", **changes):
        """A tiny experiment; changes={"run": {"steps": 3}} are merged in. Makes the data unless it is there."""
        if not (self.folder / "train_000.bin").exists():
            self.make_data()
        config = {
            "model": {"kind": "gpt", "layers": 2, "heads": 2, "width": 32, "context": 32, "vocab": VOCAB},
            "data": {"train": f"{self.folder}/train*.bin", "valid": f"{self.folder}/valid*.bin"},
            "batch": {"global": 8, "micro": 2, "sequence": 32},
            "precision": {"compute": "f32"},
            "optim": {"kind": "adamw", "lr": 0.01, "clip": 1.0, "schedule": {"kind": "constant", "warmup": 2}},
            "run": {"seed": 1, "steps": 10, "eval_every": 0, "out": str(self.run_folder), "timeout_s": 10},
            "checkpoint": {"every": 0, "keep": 3, "resume": "auto"},
        }
        for section, values in changes.items():
            config.setdefault(section, {}).update(values)
        # JSON is YAML; one section a line, so that errors have a line to name.
        return self.make_file(name, "".join(f"{section}: {json.dumps(values)}\n" for section, values in config.items()))

    def make_file(self, name, text):
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    # ---- Processes ----
    def environment(self):
        key, value = self.marker.split("=")
        return {**os.environ, key: value}

    def start(self, *arguments, command=TRIREME, extra_environment=None, **options):
        """The command in the background, its output in self.folder/output.txt."""
        environment = {**self.environment(), **(extra_environment or {})}
        with open(self.folder / "output.txt", "w", encoding="utf-8") as out:
            return subprocess.Popen([command, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=out,
                                    stderr=subprocess.STDOUT, env=environment, cwd=self.folder, **options)

    def output(self):
        return (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")

    def finish(self, process, status=0, timeout_s=30):
        """Waits for the end; `status` None: any but 0. Returns the output."""
        try:
            got = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.fail(f"still running after {timeout_s} s; its output:\n{self.output()}")
        if status is None:
            self.assertNotEqual(got, 0, self.output())
        else:
            self.assertEqual(got, status, self.output())
        return self.output()

    def trireme(self, *arguments, status=0, timeout_s=60, **options):
        return self.finish(self.start(*arguments, **options), status, timeout_s)

    def mpirun(self, ranks, *arguments):
        """The command on `ranks` processes, once it has ended."""
        line = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", str(ranks), TRIREME]
        return subprocess.run([*line, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=self.environment(), cwd=self.folder, timeout=60)

    def trireme_stdout(self, *arguments):
        """What the command prints to standard output alone."""
        done = subprocess.run([TRIREME, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=self.environment(), cwd=self.folder, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def processes(self, also=""):
        """Ids of the running processes of this test whose environment has the variable `also`, e.g. "RANK=1"."""
        found = []
        for folder in pathlib.Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            try:
                variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue
            if self.marker in variables and (not also or also in variables) and is_running(int(folder.name)):
                found.append(int(folder.name))
        return found

    def rank(self, index, timeout_s=40):
        """The process id of one rank of a launched run."""
        variable = f"OMPI_COMM_WORLD_RANK={index}"
        self.wait_for(lambda: self.processes(variable), f"rank {index} to start", timeout_s)
        return self.processes(variable)[0]

    def wait_for(self, condition, what, timeout_s=40):
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                self.fail(f"waited {timeout_s} s for {what}; the output:\n{self.output()}")
            time.sleep(0.002)

    # ---- What a run left ----
    def metrics(self, run=None):
        """The lines of metrics.jsonl, by step, of training (those with a loss of a step)."""
        path = (run or self.run_folder) / "metrics.jsonl"
        if not path.exists():
            return {}
        complete = path.read_text(encoding="utf-8").split("\n")[:-1]
        lines = [json.loads(line) for line in complete if line]
        return {line["step"]: line for line in lines if "tokens_per_s" in line}

    def losses(self, run=None):
        return {step: line["loss"] for step, line in self.metrics(run).items()}

    def wait_for_step(self, step):
        self.wait_for(lambda: max(self.metrics(), default=0) >= step, f"step {step}")

    def checkpoints(self, run=None):
        """The steps of the finished checkpoints, in order."""
        names = (entry.name for entry in (run or self.run_folder).glob("step-*") if entry.is_dir())
        return sorted(int(name[5:]) for name in names if re.fullmatch(r"step-\d{8}", name))

    def unfinished_checkpoints(self):
        return [entry.name for entry in self.run_folder.glob(".*")]

    def checkpoint(self, step, run=None):
        return (run or self.run_folder) / f"step-{step:08d}"
