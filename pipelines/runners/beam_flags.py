"""Which flags Beam has, and that those of a command line are among them and hold what Beam reads.

Beam itself passes over what it does not know, takes the last of two values, and ends the process over one that it
cannot read.
"""

from __future__ import annotations

import argparse
import functools
import typing
from collections.abc import Collection, Sequence

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from rag_ops.errors import InputError, UnknownArgumentError

REMEDY = "see --help"
# Flags of Flink's job server, which Beam for Python hands on without knowing them: the table of Beam's page on the
# Flink runner, for Python, less those that it knows.
FLINK = frozenset(
    """allow_non_restored_state auto_balance_write_files_sharding_enabled auto_watermark_interval
    checkpoint_timeout_millis checkpointing_interval checkpointing_mode disable_metrics execution_mode_for_batch
    execution_retry_delay externalized_checkpoints_enabled fail_on_checkpointing_errors faster_copy
    finish_bundle_before_checkpointing flink_conf_dir latency_tracking_interval max_bundle_size max_bundle_time_mills
    min_pause_between_checkpoints num_concurrent_checkpoints number_of_execution_retries object_reuse
    operator_chaining re_iterable_group_by_key_result report_checkpoint_duration
    retain_externalized_checkpoints_on_cancellation savepoint_path shutdown_sources_after_idle_ms state_backend
    state_backend_factory state_backend_storage_path""".split()
)


class _Parser(_BeamArgumentParser):
    """Beam's parser, whose errors are ours."""

    def error(self, message: str) -> typing.NoReturn:
        """Raises instead of ending the process."""
        raise InputError(f"a flag of Beam's has a wrong value ({message})", remedy="see Beam's documentation")


def known() -> set[str]:
    """The names of Beam's flags, as they are given: `--runner`, say."""
    return {*_parser()._option_string_actions}


def unknown(arguments: Sequence[str]) -> list[str]:
    """Reads Beam's flags as Beam will; returns the flags that it does not know, as given, but without their values.

    Args:
        arguments: flags and their values.

    Raises:
        InputError: an argument belongs to no flag, a flag has two values, or one that Beam cannot read.
    """
    parser, given, found, values = _parser(), list(arguments), [], dict[str, str]()
    while given:
        flag, equals, value = given.pop(0).partition("=")
        if not flag.startswith("-"):
            raise UnknownArgumentError(flag + equals + value, parser._option_string_actions, REMEDY)
        action = parser._option_string_actions.get(flag)
        if (action is None or action.nargs != 0) and not equals and given and not given[0].startswith("--"):
            value = given.pop(0)
        if action is None:
            found.append(flag)
        once = action is None or isinstance(action, argparse._StoreAction)  # the others add up
        if once and values.setdefault(action.dest if action else flag, value) != value:  # perhaps a secret
            raise InputError(f"{flag} is given twice, with another value", remedy="give it once")
    parser.parse_known_args(list(arguments))
    return found


def check(arguments: Sequence[str], theirs: Collection[str] = ()) -> None:
    """Checks Beam's flags.

    Args:
        arguments: flags and their values.
        theirs: names of further flags, without hyphens, that the chosen runner knows.

    Raises:
        InputError: see `unknown`; or a flag is known to nobody.
    """
    for flag in unknown(arguments):
        if not flag.startswith("--") or flag[2:] not in theirs:
            raise UnknownArgumentError(flag, [*known(), *("--" + name for name in theirs)], REMEDY)


def _parser() -> _Parser:
    # As Beam does it: of a class that was defined twice, in a notebook say, the last counts.
    return _parser_of(tuple({str(one): one for one in PipelineOptions.__subclasses__()}.values()))


@functools.lru_cache(maxsize=1)
def _parser_of(classes: tuple[type[PipelineOptions], ...]) -> _Parser:
    parser = _Parser(allow_abbrev=False, add_help=False)
    for options in classes:
        options._add_argparse_args(parser)
    return parser
