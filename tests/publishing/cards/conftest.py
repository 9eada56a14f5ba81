"""The made-up metrics that the tests of the report page use."""

from reporting.conftest import *  # noqa: F403
