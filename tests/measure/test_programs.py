"""Collectives of a program: counted by kind, in bytes of what they give, as often as they run."""

from tokjax.measure.programs import collectives

PROGRAM = """HloModule step

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%body.1 (carry: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %constant.7 = s32[] constant(1)
  %all-gather-start.2 = (bf16[1,8]{1,0:T(8,128)(2,1)}, bf16[4,8]{1,0}) all-gather-start(%part), dimensions={0}
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

ENTRY %main (p: f32[16]) -> f32[16] {
  %while.1 = (s32[], bf16[4,8]) while(%init), condition=%condition.1, body=%body.1
  %while.2 = (f32[16]) while(%p), condition=%other, body=%ring, backend_config={"known_trip_count":{"n":"3"}}
  %all-reduce.1 = (f32[16]{0}, f32[2]{0}) all-reduce-start(%a, %b), to_apply=%sum
  %reduce-scatter.1 = ((f32[16]{0}), f32[4]{0}) reduce-scatter-start(%c), to_apply=%sum
  ROOT %fusion = f32[16] fusion(%all-reduce.1), kind=kLoop, calls=%sum
}
"""


def test_bodies_of_loops_count_as_often_as_they_run():
    sizes, numbers = collectives(PROGRAM)
    assert numbers == {"all-gather": 24, "collective-permute": 3, "all-reduce": 1, "reduce-scatter": 1}
    assert sizes == {
        "all-gather": 24 * 4 * 8 * 2, "collective-permute": 3 * 16 * 4, "all-reduce": 18 * 4, "reduce-scatter": 4 * 4,
    }  # fmt: skip


def test_a_program_of_one_device_has_none():
    assert collectives("ENTRY %main (x: f32[2]) -> f32[2] {\n  ROOT %add = f32[2] add(%x, %x)\n}\n") == ({}, {})
