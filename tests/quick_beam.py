"""Beam, which remembers what it works out anew hundreds of times in a job: tests run a thousand small jobs.

For every transform it looks at the signature of every method of the DoFn, again and again, and for every look at an
option it builds a parser of all options of a class. Half of a small job's time goes there. Jobs whose
processes begin anew run without this.
"""

from __future__ import annotations

import copy
import functools
from types import MethodType
from typing import Any


def install() -> None:
    """Makes Beam remember, in this process."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms import userstate

    userstate.get_dofn_specs = by_class(userstate.get_dofn_specs)
    PipelineOptions.__init__ = by_flags(PipelineOptions.__init__)


def by_class(look):
    """Remembers, by a DoFn's class, what it declares; not where an instance has methods of its own."""
    found: dict[type, Any] = {}

    @functools.wraps(look)
    def looked(dofn):
        if any(isinstance(value, MethodType) for value in vars(dofn).values()):
            return look(dofn)
        if type(dofn) not in found:
            found[type(dofn)] = look(dofn)
        return tuple(set(specs) for specs in found[type(dofn)])

    return looked


def by_flags(parse):
    """Remembers what a class of options makes of some flags."""
    found: dict[tuple, dict[str, Any]] = {}

    @functools.wraps(parse)
    def parsed(self, flags=None, **more):
        if flags is None or isinstance(flags, str) or more:
            parse(self, flags, **more)
            return
        key = (type(self), *flags)
        if key not in found:
            parse(self, flags)
            found[key] = copy.deepcopy({name: value for name, value in vars(self).items() if name != "_flags"})
        else:
            vars(self).update(copy.deepcopy(found[key]), _flags=flags)

    return parsed
