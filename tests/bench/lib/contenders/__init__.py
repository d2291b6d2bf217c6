"""Everybody who is measured, in the order of the tables."""

from . import gvad, limit, queues, shell

ALL = [*gvad.ALL, *limit.ALL, *shell.ALL, *queues.ALL]
