"""The run-time type checker of the test session: beartype, with PEP 484's rule that an int may stand for a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
