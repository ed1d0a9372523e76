"""Collectives of a program: counted by kind, in bytes of what they bring to a device, as often as they run."""

import pytest

from tokjax.measure.programs import collectives

PROGRAM = """HloModule step, is_scheduled=true, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%body.1 (carry: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %constant.7 = s32[] constant(1)
  %all-gather-start.2 = (bf16[1,8]{1,0:T(8,128)(2,1)}, bf16[4,8]{1,0}) all-gather-start(%a), replica_groups=[2,4]<=[8]
  %all-gather-done.2 = bf16[4,8]{1,0} all-gather-done(%all-gather-start.2)
  ROOT %tuple = (s32[], bf16[4,8]) tuple(%next, %all-gather-done.2)
}

%condition.1 (carry: (s32[], bf16[4,8])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(24)
  ROOT %compare = pred[] compare(%i, %constant.3), direction=LT
}

%ring (carry: (f32[16])) -> (f32[16]) {
  %collective-permute-start = (f32[16], f32[16], u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)
  ROOT %done = f32[16] collective-permute-done(%collective-permute-start)
}

%all-reduce-scatter.1 (q: f32[16]) -> f32[2] {
  %all-reduce.9 = f32[16] all-reduce(%q), replica_groups={}, to_apply=%sum
  ROOT %dynamic-slice.9 = f32[2] dynamic-slice(%all-reduce.9, %i), dynamic_slice_sizes={2}
}

ENTRY %main (p: f32[16]) -> f32[16] {
  %while.1 = (s32[], bf16[4,8]) while(%init), condition=%condition.1, body=%body.1
  %while.2 = (f32[16]) while(%p), condition=%other, body=%ring, backend_config={"known_trip_count":{"n":"3"}}
  %all-reduce.1 = (f32[16], f32[2]{0}) all-reduce-start(%a, %b), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%sum
  %rs.1 = ((f32[16]{0}), f32[4]{0}) reduce-scatter-start(%c), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%sum
  %fusion.1 = f32[2] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %fusion = f32[16] fusion(%all-reduce.1), kind=kLoop, calls=%sum
}
"""


def test_bodies_of_loops_count_as_often_as_they_run():
    expected = {"all-gather": 24, "collective-permute": 3, "all-reduce": 1, "reduce-scatter": 2}
    assert collectives(PROGRAM).number == expected


def test_a_device_receives_all_but_its_own_part():
    assert collectives(PROGRAM).received_bytes == {
        "all-gather": 24 * 3 * 8 * 2,  # of groups of four, by their size
        "collective-permute": 3 * 16 * 4,
        "all-reduce": 2 * 18 * 4 // 2,  # of pairs, by their members
        "reduce-scatter": 3 * 4 * 4 + 7 * 2 * 4,  # of four along an axis of a mesh, and of all
    }


@pytest.mark.parametrize(
    "groups, joined",
    [
        ("mesh['data'=2,'fsdp'=8] {'data','fsdp'}", 16),
        ("mesh['data'=2,'fsdp'=8] {'fsdp':(2)4}", 4),
        ("[16,2]<=[4,8]T(1,0)", 2),
        ("{}", 32),
    ],
)
def test_groups_are_read_in_every_form(groups, joined):
    text = f"""HloModule step, num_partitions=32

ENTRY %main (p: f32[64]) -> f32[64] {{
  ROOT %sum = f32[64] all-reduce(%p), replica_groups={groups}, use_global_device_ids=true, to_apply=%add
}}
"""
    assert collectives(text).received_bytes == {"all-reduce": 2 * 256 * (joined - 1) // joined}


def test_a_program_of_one_device_has_none():
    assert collectives("ENTRY %main (x: f32[2]) -> f32[2] {\n  ROOT %add = f32[2] add(%x, %x)\n}\n").number == {}


UNROLLED = """HloModule step, num_partitions=16

%below (state: (f32[8], u32[])) -> pred[] {
  %limit = u32[]{:T(128)} constant(8), metadata={}
  %state = (f32[8], u32[]) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%state), index=1
  ROOT %less = pred[] compare(%count, %limit), direction=LT
}

%twice (state: (f32[8], u32[])) -> (f32[8], u32[]) {
  %state = (f32[8], u32[]) parameter(0)
  %part = f32[8] get-tuple-element(%state), index=0
  %count.1 = u32[]{:T(128)} get-tuple-element(%state), index=1
  %one..sunk = u32[]{:T(128)} constant(1)
  %two..sunk = u32[]{:T(128)} constant(2)
  %next = u32[] add(%count.1, %one..sunk)
  %collective-permute.1 = f32[8] collective-permute(%part), source_target_pairs={{0,1}}
  %collective-permute.2 = f32[8] collective-permute(%collective-permute.1), source_target_pairs={{0,1}}
  %after = u32[] add(%count.1, %two..sunk)
  ROOT %results = (f32[8], /*index=1*/u32[]) tuple(%collective-permute.2, /*index=1*/%after)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %loop = (f32[8], u32[]) while(%init), condition=%below, body=%twice
  ROOT %out = f32[8] get-tuple-element(%loop), index=0
}
"""


def test_a_loop_whose_counter_grows_by_two_runs_half_as_often():
    assert collectives(UNROLLED).number == {"collective-permute": 2 * 4}


BESIDE = """HloModule step, num_partitions=4

%started (p: f32[2]) -> (f32[8]) {
  ROOT %all-gather.1 = f32[8] all-gather(%p), replica_groups=[1,4]<=[4], dimensions={0}
}

%async_collective_fusion.7 (p: f32[2]) -> (f32[8]) {
  ROOT %all-gather.2 = f32[8] all-gather(%p), replica_groups=[1,4]<=[4], dimensions={0}
}

%ended (p: f32[2]) -> f32[8] {
  ROOT %all-gather.3 = f32[8] all-gather(%p), replica_groups=[1,4]<=[4], dimensions={0}
}

%body (state: (f32[8], u32[])) -> (f32[8], u32[]) {
  %fusion.7 = (f32[8]) fusion(%x), kind=kCustom, calls=%async_collective_fusion.7
  ROOT %results = (f32[8], u32[]) tuple(%fusion.7, %count)
}

ENTRY %main (p: f32[2]) -> f32[8] {
  %async-collective-start = (f32[8]) fusion(%p), kind=kCustom, calls=%started
  %loop = (f32[8], u32[]) while(%init), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"24"}}
  ROOT %async-collective-done = f32[8] fusion(%loop), kind=kCustom, calls=%ended
}
"""


def test_a_collective_that_goes_on_beside_other_work_counts_once():
    assert collectives(BESIDE).received_bytes == {"all-gather": 32 * 3 // 4}
