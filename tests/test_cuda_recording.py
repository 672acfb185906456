"""`compile_step` on device "cuda" (`cuda_recording.py` in the simulator), and on the host."""

from pathlib import Path

import numpy as np
import pytest
from simulated import in_simulator

import minicnn
from minicnn import graph, nn


@pytest.mark.parametrize(
    "name",
    [
        "a_repetition_has_the_bits_of_the_function",
        "memory_of_a_recording_is_lent_to_nobody",
        "changes_of_the_model_are_seen",
        "a_gradient_that_is_there_is_added_to",
        "an_update_decides_anew_in_every_step",
        "evaluation_is_repeated_too",
        "what_cannot_be_recorded_says_why_and_is_right",
        "without_a_graph_launches_go_one_by_one",
    ],
)
def test_a_recorded_step(name):
    in_simulator(str(Path(__file__).parent / "cuda_recording.py"), name)


def test_on_the_host_the_step_is_called_as_it_is():
    calls = []
    step = graph.compile_step(lambda x: calls.append(x), nn.Linear(1, 1))
    for i in range(3):
        step(minicnn.tensor([float(i)]))
    assert [x.item() for x in calls] == [0, 1, 2]
    assert not step.recordings()


def test_what_a_generator_gives_is_heard_inside_of_the_block_only():
    generator = minicnn.Generator(3)
    generator.reserve(8)
    with minicnn.random.drawn() as draws:
        generator.reserve(5)
        np.testing.assert_array_equal(generator.uniform((2,)).shape, (2,))
    generator.reserve(4)
    assert draws == [(generator, 5, (3, 2)), (generator, 2, (3, 4))]
