"""What a file of `accelerate_configs/` promises, asked of accelerate without starting anything."""

from pathlib import Path

import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from radrecipes.errors import InputError
from radrecipes.launch.spec import Promise, promised_by


def promise_in(path: str | Path) -> Promise:
    """What `accelerate launch --config_file` would be asked for.

    Args:
        path (`str` or `Path`):
            A configuration of accelerate.

    Returns:
        [`Promise`]

    Raises:
        [`InputError`]: there is no such file, accelerate cannot read it, or it promises what would not be kept.
    """
    if not Path(path).is_file():
        raise InputError("no such configuration of accelerate; those shipped are in accelerate_configs/", str(path))
    # The threads are named, or accelerate would warn that they are not.
    words = ["--config_file", str(path), "--num_cpu_threads_per_process", "1", "scripts/sft.py"]
    try:
        args, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"accelerate cannot read it: {' '.join(str(error).split())}", str(path)) from error
    return promised_by(args)
