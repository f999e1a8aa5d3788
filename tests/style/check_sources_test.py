#!/usr/bin/env python3
"""check_sources.py finds each kind of planted violation, and nothing in a clean tree."""
import pathlib
import tempfile
import unittest

import check_sources

CLEAN = {
    "core/tensor.h": "// Tensor: an array.\n#pragma once\n",
    "core/tensor.cpp": '#include "core/tensor.h"\n#include <vector>\n',
    "core/backend/cpu/gelu.cpp": "// The host's gelu.\n#if defined(__AVX512F__)\n#endif\n",
    "comm/group.h": '// Group: ranks.\n#include "core/tensor.h"\n',
    "parallel/mesh.h": '// Mesh: axes.\n#include "comm/group.h"\n',
    "models/gpt.h": '// Gpt.\n#include "parallel/mesh.h"\n#include "core/tensor.h"\n',
    "launcher/main.cpp": '// The command.\n#include "models/gpt.h"\n#include "optim/optimizer.h"\n',
    "optim/optimizer.h": '// Optimizer.\n#include "core/tensor.h"\n#if defined(__COMPILER__)\n#endif\n',
}


class CheckSources(unittest.TestCase):
    def check(self, planted):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {**CLEAN, **planted}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            files, violations = check_sources.check(root)
            self.assertEqual(files, len({**CLEAN, **planted}))
            return violations

    def expect_one(self, name, text, line, words):
        violations = self.check({name: text})
        self.assertEqual(len(violations), 1, violations)
        self.assertTrue(violations[0].startswith(f"{name}:{line}:"), violations)
        self.assertIn(words, violations[0])

    def test_clean_tree(self):
        self.assertEqual(self.check({}), [])

    def test_every_arrow(self):
        order = {folder: sorted(set(check_sources.ARROWS) - allowed) for folder, allowed in check_sources.ARROWS.items()}
        self.assertEqual(order["core"], ["comm", "launcher", "models", "optim", "parallel"])
        for folder, forbidden in order.items():
            for target in forbidden:
                with self.subTest(include=f"{folder} -> {target}"):
                    self.expect_one(f"{folder}/bad.h", f'// Bad.\n#include "{target}/x.h"\n', 2, "may not include")

    def test_angle_brackets_and_spaces_are_no_way_round(self):
        self.expect_one("core/bad.h", "// Bad.\n\n #  include <comm/group.h>\n", 3, "may not include")

    def test_relative_path_is_no_way_round(self):
        self.expect_one("core/bad.h", '// Bad.\n#include "../comm/group.h"\n', 2, "from the root")

    def test_device_macros_in_shared_code(self):
        for line in ("#ifdef __CUDACC__", "#if defined(TRIREME_NCCL)", "#  ifndef USE_CUDA", "#elif defined(__AVX2__)"):
            with self.subTest(line=line):
                self.expect_one("parallel/bad.h", f"// Bad.\n{line}\n", 2, "let CMake choose")

    def test_missing_role(self):
        self.expect_one("core/bad.h", "#pragma once\n", 1, "role")
        self.expect_one("core/alone.cpp", "#include <vector>\n", 1, "role")
        self.expect_one("tests/core/bad_test.cpp", "", 1, "role")


if __name__ == "__main__":
    unittest.main()
