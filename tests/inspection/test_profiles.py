"""What a trace and a compiled program tell together: whose time it was."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from research.inspection import profiles
from research.inspection.profiles import Event, Instruction
from research.ops.convolution import convolve

PROGRAM = """HloModule jit_f, is_scheduled=true

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %s = f32[4]{0} sine(%p), metadata={op_name="jit(f)/jvp(Net)/block_01/dense/sin"}
  ROOT %t = f32[4]{0} negate(%s), metadata={op_name="jit(f)/jvp(Net)/block_01/dense/sin"}
}

ENTRY %main (x: f32[4], y: (f32[4], s32[])) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %dot.15 = f32[4,4]{1,0} dot(%x, %x), metadata={op_name="jit(f)/transpose(jvp(Net))/block_00/dense/dot_general" x=1}
  %while.2 = (f32[4]{0}, /*index=5*/s32[]) while(%y), condition=%c, body=%b, metadata={op_name="jit(f)/while"}
  %fusion = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %add = f32[4]{0} add(%fusion, %x), metadata={op_name="jit(f)/while/body/update/add"}
}
"""
LAYERS = {"block_00", "block_00/dense", "block_01", "block_01/dense"}


def test_a_program_tells_kinds_and_origins_and_a_fusion_that_of_what_it_calls():
    found = profiles.instructions(PROGRAM)
    assert found["dot.15"] == Instruction("dot", "jit(f)/transpose(jvp(Net))/block_00/dense/dot_general")
    assert found["while.2"].kind == "while"
    assert found["fusion"] == Instruction("fusion", "jit(f)/jvp(Net)/block_01/dense/sin")


def test_the_time_of_events_goes_to_layers_and_parts_and_loops_have_none_of_their_own():
    events = [
        Event("dot.15", 0.0, 2.0),
        Event("fusion", 1.0, 0.5),
        Event("while.2", 0.0, 99.0),
        Event("add", 9.0, 1.0),
        Event("memcpy", 7.0, 0.25),
        Event("dot.15", 3.0, 4.0),
    ]
    found, busy = profiles.summed(profiles.instructions(PROGRAM), events, LAYERS, on_cpu=True)
    assert busy == 7.25  # what runs beside another is counted once, and nothing for what is between them
    assert [(each.name, each.layer, each.part, each.calls, each.seconds) for each in found] == [
        ("dot.15", "block_00/dense", "backward", 2, 6.0),
        ("add", "", "update", 1, 1.0),
        ("fusion", "block_01/dense", "forward", 1, 0.5),
        ("memcpy", "", "other", 1, 0.25),
    ]
    assert profiles.by_layer(found)["block_00/dense"] == {"backward": 6.0}


def test_what_runs_is_found_in_the_trace_as_often_as_it_ran(tmp_path):
    def f(x):
        with jax.named_scope("large"):
            y = x @ x
        with jax.named_scope("small"):
            return jnp.tanh(y[:8, :8]) @ y[:8, :8]

    x = jnp.ones((256, 256))
    compiled = jax.jit(f).lower(x).compile()
    jax.block_until_ready(compiled(x))
    with jax.profiler.trace(tmp_path):
        for _ in range(3):
            jax.block_until_ready(compiled(x))
    found, _ = profiles.profile(compiled.as_text(), tmp_path, {"large", "small"})
    layers = {each.layer for each in found}
    assert {"large", "small"} <= layers
    assert all(each.calls % 3 == 0 and each.seconds >= 0 for each in found if each.layer)


def test_what_passes_unseen_after_a_convolution_is_its_own_and_nothing_else_is():
    program = {"conv": Instruction("convolution", "jit(f)/jvp(Net)/block_00/conv"), "add": Instruction("fusion", "")}
    events = [
        Event("add", 0.0, 1.0),
        Event("conv", 2.0, 0.1),  # a second before it passed unseen, when there was no convolution
        Event("add", 2.0, 0.4),  # beside it
        Event("add", 2.400002, 0.599998),  # and at once after that
        Event("add", 5.0, 1.0),  # which had to wait for it
        Event("add", 8.0, 1.0),
    ]
    for on_cpu, unseen in ((True, 2.0), (False, 0.0)):  # elsewhere it is seen itself, and what passes is idle
        found, busy = profiles.summed(program, events, {"block_00"}, on_cpu=on_cpu)
        assert {each.name: (each.calls, each.seconds) for each in found} == {
            "conv": (1, pytest.approx(0.1 + unseen)),
            "add": (5, pytest.approx(4.0)),
        }
        assert busy == pytest.approx(4.0 + unseen)


def test_the_time_of_a_convolution_is_found_though_other_threads_compute_it(tmp_path):
    """Two of them, one with 64 times the positions: to hand them on takes about the same."""

    def f(large, small, kernel):
        with jax.named_scope("large"):
            large = convolve(large, kernel)
        with jax.named_scope("small"):
            small = convolve(small + large[:, :8, :8], kernel)
        return large, jnp.tanh(small)

    arrays = jnp.ones((8, 64, 64, 32)), jnp.ones((8, 8, 8, 32)), jnp.ones((5, 5, 32, 32))
    compiled = jax.jit(f).lower(*arrays).compile()
    jax.block_until_ready(compiled(*arrays))
    with jax.profiler.trace(tmp_path):
        for _ in range(3):
            jax.block_until_ready(compiled(*arrays))
    found, _ = profiles.profile(compiled.as_text(), tmp_path, {"large", "small"})
    of = {each.layer: each.seconds for each in found if each.kind == "convolution"}
    if not of:
        pytest.skip("here a convolution is handed to a library, and so is seen itself")
    assert of["large"] > 4 * of["small"]


class Raw(NamedTuple):
    """An event as the profiler has it."""

    name: str
    duration_ns: int
    stats: tuple = ()
    start_ns: int = 0


class Line(NamedTuple):
    name: str
    events: tuple


def plane(name, **lines):
    return SimpleNamespace(name=name, lines=[Line(each.replace("_", " "), events) for each, events in lines.items()])


def test_a_cpu_is_known_by_threads_a_gpu_by_streams_and_a_tpu_by_its_line_of_operations():
    named = Raw("dot.15", 2_000_000_000, (("hlo_op", "dot.15"),), 3 * 10**9)
    host = plane("/host:CPU", python=(Raw("main", 9),), thread=(named, Raw("end: dot.15", 1, named.stats)))
    assert list(profiles.events_of([host])) == [("dot.15", 3.0, 2.0)]
    sums = {"XLA_Modules": (Raw("jit_f", 9),), "Steps": (Raw("1", 9),)}
    gpu = plane("/device:GPU:0", Stream_7=(Raw("gemm_kernel", 10**9, named.stats), Raw("memset", 10**9)), **sums)
    assert list(profiles.events_of([host, gpu])) == [("dot.15", 0.0, 1.0), ("memset", 0.0, 1.0)]
    tpu = plane("/device:TPU:0", XLA_Ops=(Raw("dot.15", 10**9),), Other=(Raw("noise", 1),), **sums)
    assert list(profiles.events_of([host, tpu])) == [("dot.15", 0.0, 1.0)]


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no trace"):
        profiles.profile(PROGRAM, tmp_path, LAYERS)
