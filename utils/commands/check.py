"""The command that looks for images which cannot be read."""

from dataclasses import replace

from datasets import load_data
from datasets.files.images import DataFaults
from utils.errors import UserError
from utils.options.flags import Options


def check_images(options: Options) -> None:
    """Reads every image file of the data whole, and prints a line for each fault, or else which
    images there are.

    Images that training holds in memory are decoded into the cache, so training starts at once
    after that.

    Raises:
        UserError: there are faults.
        RunError: the images do not fit into memory.
    """
    # The training images' own normalisation would read them a second time. Nothing is streamed, so
    # no workers are needed.
    options = replace(options, normalisation="imagenet", workers=0)
    try:
        data = load_data(options)
    except DataFaults as error:
        print(*error.faults, sep="\n")
        number = f"{len(error.faults)} fault{'s' * (len(error.faults) > 1)}"
        raise UserError(
            f"--data_root {options.data_root}: {number}, listed on standard output"
        ) from None
    print(data.account())
    print("every image can be read")
