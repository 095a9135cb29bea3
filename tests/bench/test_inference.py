"""The arithmetic and the HTTP reader of the inference benchmark: `python3 -m unittest discover tests/bench`."""

import json
import math
import socket
import threading
import time
import unittest
from collections import Counter
from itertools import islice

from gateway_side import Overhead
from http_load import Answer, Client, RequestFailed
from inference_report import Precision
from inference_sides import Single, check, completion
from inference_targets import inference_targets
from models import CPU_SHAPES
from prompts import Prompts, evenly, spread, zipf
from report import percentile
from rollout_side import Rollouts
from swap import Swap, steady_gaps


class Server:
    """Answers each connection with the same bytes, a piece at a time."""

    def __init__(self, *pieces: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._pieces = pieces
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.requests.append(connection.recv(1 << 16))
                for piece in self._pieces:
                    connection.sendall(piece)
                    pause.wait(0.03)


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(body: dict) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Served: a\r\n\r\n"
_USAGE = event({"choices": [], "usage": {"completion_tokens": 3, "prompt_tokens": 9}})
_DONE = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Reading(unittest.TestCase):
    def test_each_text_has_its_moment_however_the_bytes_are_cut(self) -> None:
        first, second, third = (chunk(event({"choices": [{"text": text}]})) for text in "abc")
        empty = chunk(event({"choices": [{"text": ""}]}))
        # The head with half of the first event; its rest; an empty text; two events in one piece.
        server = Server(_HEAD + first[:9], first[9:], empty, second + third, chunk(_USAGE) + _DONE)
        answer = Client(server.url, "secret").ask([completion("m", "a b", 3, stream=True)])[0]
        self.assertEqual((answer.text, answer.tokens, answer.prompt_tokens), ("abc", 3, 9))
        self.assertEqual((len(answer.arrivals), answer.request["model"]), (3, "m"))
        self.assertEqual(answer.headers["x-served"], "a")
        one, two = answer.gaps
        self.assertGreater(one, 0.05)
        self.assertEqual(two, 0.0)
        self.assertGreater(answer.first_token, 0.02)
        self.assertIn(b"Authorization: Bearer secret", server.requests[0])

    def test_whole_answers_and_errors(self) -> None:
        said = {"choices": [{"message": {"content": "yes"}}]}
        body = json.dumps(said | {"usage": {"completion_tokens": 3, "prompt_tokens": 9}}).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
        bodies = [completion("m", "a b", 3, stream=False)] * 5
        answers = Client(Server(head, body).url).keep_asking(bodies, 2)
        self.assertEqual([(answer.tokens, answer.text) for answer in answers], [(3, "yes")] * 5)
        began = time.perf_counter()
        answers, failures = Client(Server(head, body).url).ask_at_rate(bodies, 100.0, "/v1/completions")
        self.assertEqual((len(answers), failures), (5, []))
        self.assertGreater(time.perf_counter() - began, 0.04)
        refused = Client(Server(b"HTTP/1.1 404 Not Found\r\n\r\n{}").url)
        answers, failures = refused.ask_at_rate(bodies, 100.0, "/v1/completions")
        self.assertEqual((answers, len(failures)), ([], 5))
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = Client(f"http://127.0.0.1:{closed.getsockname()[1]}")
        answers, failures = nobody.ask_at_rate(bodies, 100.0, "/v1/completions")
        self.assertEqual((answers, len(failures)), ([], 5))
        for reply in (b"HTTP/1.1 404 Not Found\r\n\r\n{}", b"", _HEAD + chunk(event({"choices": []}))):
            with self.assertRaises(RequestFailed):
                Client(Server(reply).url).ask([completion("m", "a", 3, stream=True)])

    def test_another_length_is_refused(self) -> None:
        answer = Answer({}, 0.0, 1.0, [1.0], "abc", tokens=3, prompt_tokens=9, headers={})
        self.assertIs(check(answer, 9, 3), answer)
        for wanted in ((9, 4), (8, 3)):
            with self.assertRaises(RuntimeError):
                check(answer, *wanted)


class Requests(unittest.TestCase):
    def test_prompts_have_their_lengths_and_differ(self) -> None:
        prompts = Prompts(0)
        made = prompts.several([5, 5, 7])
        self.assertEqual([len(prompt.split(" ")) for prompt in made], [5, 5, 7])
        self.assertNotEqual(made[0], made[1])

    def test_lengths_lie_evenly_around_the_mean(self) -> None:
        self.assertEqual(spread(64, 1), [64])
        lengths = spread(64, 16)
        self.assertEqual((min(lengths), max(lengths), sum(lengths) / 16), (32, 96, 64))

    def test_traffic(self) -> None:
        names = [str(number) for number in range(8)]
        self.assertEqual(set(Counter(islice(evenly(names, 0), 16)).values()), {2})
        counts = Counter(zipf(names, 20_000, 0))
        self.assertTrue(math.isclose(counts["0"] / counts["3"], 4, rel_tol=0.15))


class Numbers(unittest.TestCase):
    def test_percentiles_are_measured_values(self) -> None:
        self.assertEqual([percentile(range(1, 201), percent) for percent in (50, 99, 100)], [100, 198, 200])
        self.assertEqual(percentile([7.0], 99), 7.0)

    def test_speed_alone_leaves_out_the_first_token(self) -> None:
        single = Single.of([(0.5, 11, 1.0), (0.7, 21, 2.0)])
        self.assertEqual((single.first_tokens, single.tokens_per_second), ([0.5, 0.7], 10.0))

    def test_gaps_count_while_all_run(self) -> None:
        def answer(*arrivals: float) -> Answer:
            return Answer({}, 0.0, arrivals[-1], list(arrivals), "", len(arrivals), 1, {})

        # The second begins at 3 and the first ends at 6.
        gaps = steady_gaps([answer(1, 2, 4, 6), answer(3, 5, 6, 9)])
        self.assertEqual(sorted(gaps), [1, 2, 2])

    def test_bounds_and_shares(self) -> None:
        shape = CPU_SHAPES["110m"]
        found = Precision("float32", shape, shape.parameters() * 4, at_once=16, multiplied_in="float32")
        found.bandwidths, found.matmul_rates = [20e9, 29.7e9], [210e9]
        found.cell("ours", "base").single = [40.0, 50.0, 30.0]
        self.assertAlmostEqual(found.single_bound, 67.8, delta=0.1)
        self.assertAlmostEqual(found.together_bound, 959, delta=1)
        self.assertAlmostEqual(found.share("ours", "base"), 40 / 67.8, delta=0.001)
        self.assertIsNone(found.share("ours", "one"))
        found.cell("mistral.rs", "base").single = [20.0, 20.0, 20.0]
        self.assertEqual(found.ratio("single", ("ours", "base"), ("mistral.rs", "base")).median, 2.0)
        self.assertIn("ours, base only", found.text())

    def test_targets(self) -> None:
        shape = CPU_SHAPES["110m"]
        found = Precision("float32", shape, shape.parameters() * 4, at_once=16, multiplied_in="float32")
        found.bandwidths, found.matmul_rates = [29.7e9], [210e9]
        for column, speed in (("base", 60.0), ("one", 57.0), ("eight", 45.0), ("merged", 60.0)):
            found.cell("ours", column).single = [speed]
            found.cell("ours", column).together = [10 * speed]
        found.cell("generate", "one").together = [100.0]
        found.swaps = [Swap([0.01] * 100, [0.01] * 90 + [0.03] * 10, [0.008], [0.02])]
        gateway = Overhead(direct=[0.010, 0.010], through=[0.011, 0.025])
        rollouts = Rollouts(200.0, 9, ["status 503"], 0, {}, {"rollback": [0.004, 0.06]})
        rows = {row.name: row for row in inference_targets([found], gateway, rollouts, "")}
        expected = {
            "float32, alone, base: share of bandwidth": True,
            "float32, alone, base: by mistral.rs": None,
            "float32, together, 8 mixed by generate's one": True,
            "float32, alone, one adapter: slower than base": True,
            "float32, alone, 8 adapters mixed: slower than base": False,
            "float32, hot load of an adapter": True,
            "float32, p99 between tokens during swaps": False,
            "bfloat16, hot load of an adapter": None,
            "gateway, added to the first token at p50": True,
            "gateway, added to the first token at p99": False,
            "promote, split, roll back at 200 requests/s: failed": False,
            "promote, split, roll back at 200 requests/s: of two versions": True,
            "promote, split, roll back at 200 requests/s: slowest rollback": False,
        }
        self.assertEqual({name: rows[name].reached for name in expected}, expected)


if __name__ == "__main__":
    unittest.main()
