#!/usr/bin/env python3
"""Checks the sources for what a compiler can't: check_sources.py ROOT prints a line a violation; status 1 if any.

- An #include goes with the arrows: a folder includes only what ARROWS allows it.
- Shared code has no conditional compilation on a device: CMake chooses a folder (cuda/ or no_cuda/) instead.
- A file starts with a comment that says its role; a .cpp beside its header leaves that to the header.
"""
import pathlib
import re
import sys

ARROWS = {
    "core": {"core"},
    "comm": {"core", "comm"},
    "optim": {"core", "optim"},
    "parallel": {"core", "comm", "parallel"},
    "models": {"core", "comm", "parallel", "models"},
    "launcher": {"core", "comm", "optim", "parallel", "models", "launcher"},
}
ROOTS = [*ARROWS, "tests", "examples"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
# Folders that CMake chooses between: what is special to a device or a library is written there.
DEVICE_FOLDERS = {"cpu", "cuda", "no_cuda", "mpi", "nccl", "no_nccl"}

INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]')
DEVICE_MACRO = re.compile(r"^\s*#\s*(?:el)?if(?:def|ndef)?\b.*(?<![A-Z])(CUDA|NCCL|HIP|ROCM|SYCL|GPU|MPI|AVX|SSE|AMX|NEON)")


def sources(root):
    for folder in ROOTS:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in SUFFIXES and "build" not in file.parts:
                yield file


def arrow_violations(folder, lines):
    allowed = ARROWS.get(folder)
    if allowed is None:
        return
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        included = match.group(1)
        if included.startswith("../"):
            yield number, f'include "{included}" by its path from the root'
        target = included.split("/")[0]
        if "/" in included and target in ROOTS and target not in allowed:
            yield number, f'{folder}/ may not include "{included}"; it may include {", ".join(sorted(allowed))}'


def device_violations(relative, lines):
    if relative.suffix in {".cu", ".cuh"} or DEVICE_FOLDERS & set(relative.parts):
        return
    for number, line in enumerate(lines, 1):
        match = DEVICE_MACRO.match(line)
        if match:
            yield number, f"conditional compilation on {match.group(1)} in shared code; let CMake choose a folder"


def role_violations(file, lines):
    if file.suffix == ".cpp" and file.with_suffix(".h").exists():
        return
    if not lines or not re.match(r"// ?\S", lines[0]):
        yield 1, "no comment on top that says the file's role"


def check(root):
    violations, files = [], 0
    for file in sources(root):
        relative = file.relative_to(root)
        lines = file.read_text(encoding="utf-8").splitlines()
        files += 1
        for number, message in [
            *arrow_violations(relative.parts[0], lines),
            *device_violations(relative, lines),
            *role_violations(file, lines),
        ]:
            violations.append(f"{relative}:{number}: {message}")
    return files, violations


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} ROOT")
    files, violations = check(pathlib.Path(sys.argv[1]))
    for violation in violations:
        print(violation)
    if files == 0:
        print(f"no sources under {sys.argv[1]}")
    print(f"{files} files, {len(violations)} violations")
    sys.exit(1 if violations or files == 0 else 0)


if __name__ == "__main__":
    main()
