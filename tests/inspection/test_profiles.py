"""What a trace and a compiled program tell together: whose time it was."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from research.inspection import profiles
from research.inspection.profiles import Instruction

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
    events = [("dot.15", 2.0), ("fusion", 0.5), ("dot.15", 4.0), ("while.2", 99.0), ("add", 1.0), ("memcpy", 0.25)]
    found = profiles.summed(profiles.instructions(PROGRAM), events, LAYERS)
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
    found = profiles.operations(compiled.as_text(), tmp_path, {"large", "small"})
    layers = {each.layer for each in found}
    assert {"large", "small"} <= layers
    assert all(each.calls % 3 == 0 and each.seconds >= 0 for each in found if each.layer)


class Event(NamedTuple):
    name: str
    duration_ns: int
    stats: tuple = ()


class Line(NamedTuple):
    name: str
    events: tuple


def plane(name, **lines):
    return SimpleNamespace(name=name, lines=[Line(each.replace("_", " "), events) for each, events in lines.items()])


def test_a_cpu_is_known_by_threads_a_gpu_by_streams_and_a_tpu_by_its_line_of_operations():
    named = Event("dot.15", 2_000_000_000, (("hlo_op", "dot.15"),))
    host = plane("/host:CPU", python=(Event("main", 9),), thread=(named, Event("end: dot.15", 1, named.stats)))
    assert list(profiles.events_of([host])) == [("dot.15", 2.0)]
    sums = {"XLA_Modules": (Event("jit_f", 9),), "Steps": (Event("1", 9),)}
    gpu = plane("/device:GPU:0", Stream_7=(Event("gemm_kernel", 10**9, named.stats), Event("memset", 10**9)), **sums)
    assert list(profiles.events_of([host, gpu])) == [("dot.15", 1.0), ("memset", 1.0)]
    tpu = plane("/device:TPU:0", XLA_Ops=(Event("dot.15", 10**9),), Other=(Event("noise", 1),), **sums)
    assert list(profiles.events_of([host, tpu])) == [("dot.15", 1.0)]


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no trace"):
        profiles.operations(PROGRAM, tmp_path, LAYERS)
