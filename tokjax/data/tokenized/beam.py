"""The same tasks on a cluster, through Apache Beam."""

from collections.abc import Callable, Iterable, Sequence

from tokjax.core.errors import SpecError, TokjaxError, UserError


def run_on_beam(
    task: Callable[[int], None], numbers: Iterable[int], *, runner: str, options: Sequence[str] = ()
) -> None:
    """Calls `task(number)` for every number, wherever `runner` puts it.

    Args:
      task: a function that leaves nothing behind before its end, and the same however often it is called.
      numbers: its arguments.
      runner: name of a Beam runner, such as DirectRunner, DataflowRunner, FlinkRunner or SparkRunner.
      options: KEY=VALUE options of the pipeline, as Beam's own flags without dashes.

    Raises:
      UserError: Beam is not installed.
      SpecError: no such runner, or an option without its value.
      TokjaxError: the pipeline failed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(f'--runner {runner} needs Apache Beam. Run: pip install "tokjax[beam]".') from error
    for option in options:
        if "=" not in option:
            raise SpecError(f"--beam {option}: write KEY=VALUE.")
    try:
        pipeline = beam.Pipeline(runner=runner, options=PipelineOptions([f"--{option}" for option in options]))
    except (ValueError, ImportError, AttributeError) as error:
        raise SpecError(f"--runner {runner}: Beam cannot use it ({error}).") from error
    pipeline | beam.Create(list(numbers)) | beam.Reshuffle() | beam.Map(task)
    try:
        pipeline.run().wait_until_finish()
    except TokjaxError:
        raise
    except Exception as error:  # each runner has its own; they end with the task's own message
        raise TokjaxError(f"The {runner} pipeline failed: {error}. The same command goes on.") from error
