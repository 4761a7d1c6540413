"""ids → more ids: greedy search, sampling and beams, for every model that speaks the protocol.

Reading order: `protocol` (what a model offers), `config` and `ranges` (the options), `request` and `inputs`
(a call, settled), `generate` (the way through), `run` (what the loops share), `sampling` and `beams` (the
loops), `assisted` and `drafts` (several tokens a step), `guidance` (away from a negative prompt), `custom`
(a loop of one's own), `processors`, `warpers` and `stopping` (what watches over a step), `outputs`,
`transitions`, `streamers`, `pace` (many processes), and `peaks` and `draws` (the best of a wide row,
and a draw from it).
"""

from seq2seq_zoo.generation.config import GenerationConfig
from seq2seq_zoo.generation.generate import generate
from seq2seq_zoo.generation.outputs import (
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    GenerateOutput,
)
from seq2seq_zoo.generation.processors import LogitsProcessor, LogitsProcessorList
from seq2seq_zoo.generation.protocol import Decoding, GenerativeModel, StepOutput
from seq2seq_zoo.generation.stopping import StoppingCriteria, StoppingCriteriaList
from seq2seq_zoo.generation.streamers import TextIteratorStreamer, TextStreamer
from seq2seq_zoo.generation.transitions import compute_transition_scores

__all__ = [
    "Decoding",
    "GenerateBeamDecoderOnlyOutput",
    "GenerateBeamEncoderDecoderOutput",
    "GenerateDecoderOnlyOutput",
    "GenerateEncoderDecoderOutput",
    "GenerateOutput",
    "GenerationConfig",
    "GenerativeModel",
    "LogitsProcessor",
    "LogitsProcessorList",
    "StepOutput",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TextIteratorStreamer",
    "TextStreamer",
    "compute_transition_scores",
    "generate",
]
