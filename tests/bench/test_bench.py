"""The arithmetic of the benchmark: `python3 -m unittest discover tests/bench`."""

import json
import random
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from compare import Comparison
from dataset import Statistics, example_counts, make_dataset
from models import CPU_SHAPES, GPU_SHAPES, TINY_SHAPE, make_model
from ours import StepsLog, counts_of_steps
from report import Target
from run import Mark, Run
from targets import targets
from trl_side import padded_setting
from vocabulary import words
from work import flops_per_token


class Models(unittest.TestCase):
    def test_sizes_are_the_published_ones(self) -> None:
        millions = {name: shape.parameters() / 1e6 for name, shape in (CPU_SHAPES | GPU_SHAPES).items()}
        published = {"15m": 14.9, "110m": 109.5, "qwen2.5-0.5b": 494.0, "qwen2.5-1.5b": 1543.7, "llama-3-8b": 8030.3}
        self.assertEqual({name: round(count, 1) for name, count in millions.items()}, published)

    def test_a_seed_gives_the_same_bytes_and_each_tensor_its_place(self) -> None:
        import torch

        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            files = [
                make_model(TINY_SHAPE, Path(folder), torch.bfloat16) / "model.safetensors" for folder in (one, other)
            ]
            first, second = (file.read_bytes() for file in files)
        self.assertEqual(first, second)
        length = int.from_bytes(first[:8], "little")
        header = json.loads(first[8 : 8 + length])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        self.assertEqual(max(ends), len(first) - 8 - length)
        self.assertEqual(max(ends), 2 * TINY_SHAPE.parameters())


class Data(unittest.TestCase):
    def test_counts_are_those_of_the_tokenizer(self) -> None:
        import torch

        try:
            from transformers import AutoTokenizer
        except ImportError:
            self.skipTest("transformers is not installed")
        with tempfile.TemporaryDirectory() as folder:
            data = make_dataset(Path(folder), 50, seed=random.randrange(1000))
            tokenizer = AutoTokenizer.from_pretrained(str(make_model(CPU_SHAPES["15m"], Path(folder), torch.float32)))
            self.assertEqual(len(tokenizer), 32000)
            counted = []
            for line in data.read_text().splitlines():
                messages = json.loads(line)["messages"]
                row = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
                counted.append((len(row["input_ids"]), sum(row["assistant_masks"])))
            self.assertEqual(example_counts(data), counted)

    def test_lengths_are_like_real_ones(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            facts = Statistics.of(example_counts(make_dataset(Path(folder), 2000)))
        self.assertAlmostEqual(facts.tokens / facts.examples, 120, delta=8)
        self.assertAlmostEqual(facts.supervised_share, 0.5, delta=0.06)
        self.assertTrue(900 < facts.longest <= 1024)

    def test_words_differ(self) -> None:
        self.assertEqual(len(set(words(800))), 800)


class Measuring(unittest.TestCase):
    def test_warm_up_is_left_out(self) -> None:
        marks = [Mark(wall=10.0 + place, cpu=2.0 * place, tokens=100 + place, supervised=50) for place in range(5)]
        run = Run.of(marks, peak=7, start_seconds=1.0, warm_up=2)
        self.assertEqual((run.steps, run.tokens, run.supervised), (3, 102 + 103 + 104, 150))
        self.assertEqual((run.wall_seconds, run.cpu_seconds), (3.0, 6.0))
        with self.assertRaises(RuntimeError):
            Run.of(marks[:2], peak=7, start_seconds=1.0, warm_up=2)

    def test_half_a_line_waits_for_its_end(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "steps.jsonl")
            log = StepsLog(path)
            self.assertEqual(log.new_steps(), [])
            path.write_text('{"step":1,"tokens":3}\n{"step":1,"eval_loss":2.0}\n{"step":2,"tok')
            self.assertEqual([step["step"] for step in log.new_steps()], [1])
            path.write_text(path.read_text() + 'ens":4}\n')
            self.assertEqual([step["tokens"] for step in log.new_steps()], [4])

    def test_steps_take_whole_batches(self) -> None:
        self.assertEqual(counts_of_steps([(1, 0), (2, 1), (3, 1), (4, 2), (5, 5)], 2), [(3, 1), (7, 3)])

    def test_work_by_hand(self) -> None:
        # One document of 10 tokens, 5 of them supervised.
        facts = Statistics.of([(10, 5)])
        shape = TINY_SHAPE
        linears = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 128 * 64)
        adapter = 2 * 16 * ((64 + 64) + 2 * (32 + 64) + (64 + 64) + 3 * (128 + 64))
        expected = 4 * linears + 6 * adapter + 4 * 2048 * 64 * 0.5 + 2 * 7 * 10 * 64
        self.assertEqual(flops_per_token(shape, facts), expected)

    def test_the_padded_side_is_measured_against_a_target_of_its_own(self) -> None:
        setting = padded_setting(bfloat16=False)
        self.assertEqual((setting.batch, setting.accumulation, setting.checkpointing), (4, 1, False))
        self.assertFalse(setting.packing or setting.padding_free or setting.autocast)
        self.assertTrue(padded_setting(bfloat16=True).autocast)
        mark = [Mark(wall=float(place), cpu=float(place), tokens=0, supervised=0) for place in range(2)]

        def runs(tokens: int) -> list[Run]:
            return [Run.of([mark[0], replace(mark[1], tokens=tokens)], peak=1, start_seconds=1.0, warm_up=1)]

        shape = CPU_SHAPES["15m"]
        found = Comparison(
            shape, "float32", runs(90), runs(30), runs(6), runs(10), setting, {"batch 1": 30.0}, [1.0], 1.0
        )
        rows = targets([found], None, "", "")
        measured = {row.name: row.measured for row in rows if row.name.startswith("15m float32, speed by ")}
        self.assertEqual([round(value) for value in measured.values()], [3, 15, 9])
        self.assertIn("15m float32, speed by TRL's padded batches of 4", measured)
        self.assertIn("ours by TRL's padded batches of 4: 9.00", found.text())

    def test_targets(self) -> None:
        self.assertTrue(Target("speed", 2.0, 2.1).reached)
        self.assertFalse(Target("memory", 0.55, 0.6, "%", at_most=True).reached)
        self.assertIsNone(Target("speed", 2.0, None, why="no card").reached)
        self.assertEqual(
            Target("memory", 0.55, 0.5, "%", at_most=True).cells()[1:], ["at most 55 %", "50 %", "reached"]
        )


if __name__ == "__main__":
    unittest.main()
