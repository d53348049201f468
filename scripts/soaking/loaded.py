"""Loads what the training stage needs; a process that imported this is forked for each life."""

from llmtune import quiet

quiet.hush()

import llmtune.train.train  # noqa: E402, F401
