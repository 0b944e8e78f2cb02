"""The model ``gradmix`` for mammoth: copy this file into its ``models/`` folder.

Only mammoth imports it. Then: ``python main.py --model gradmix --buffer_size 500 ...``.
"""

from argparse import ArgumentParser
from typing import Any

from models.utils.continual_model import ContinualModel
from utils.args import add_rehearsal_args
from utils.buffer import Buffer

from gradmix_ext.integrations.mammoth import MixedReplay, add_mixer_args


class GradMix(MixedReplay, ContinualModel):
    """Experience replay with GradMix, or another mixer by ``--mixer``."""

    NAME = "gradmix"
    COMPATIBILITY = ["class-il", "task-il"]  # noqa: RUF012 - a list, as mammoth's models have

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Add the flags of replay and of mixing."""
        add_rehearsal_args(parser)
        add_mixer_args(parser)
        return parser

    def __init__(
        self, backbone: Any, loss: Any, args: Any, transform: Any, dataset: Any = None
    ) -> None:
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.buffer: Any = Buffer(self.args.buffer_size)
