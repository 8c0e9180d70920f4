"""One request while the engine works on it: its tokens so far, its row, and what becomes of its next token.

In: a request, and one token at a time. Out: the text to send, and the reason to end.
"""

from collections.abc import Collection

from jaxtyping import Float
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.batch_row import Row
from ptl_prefix.serving.job import Job
from ptl_prefix.serving.request import FinishReason, GenerationRequest, OnEvent, TokenLogprobs
from ptl_prefix.serving.sampling import TokenSampler
from ptl_prefix.serving.served_bundle import ServedBundle
from ptl_prefix.serving.text_stream import TextStream


class Generation:
    """The state of one request.

    Args:
        request: The request.
        bundle: The bundle that it is bound to; `None` for the bare base.
        on_event: Who gets its events.
        backbone: The backbone, for its tokenizer.
        decoder_start_ids: What the decoder's text starts with in an encoder-decoder, which reads the prompt as a
            source; `None` for a decoder-only backbone, whose text starts with the prompt.
    """

    def __init__(
        self,
        request: GenerationRequest,
        bundle: ServedBundle | None,
        on_event: OnEvent,
        backbone: Backbone,
        decoder_start_ids: tuple[int, ...] | None,
    ) -> None:
        self.request = request
        self.bundle = bundle
        self.on_event = on_event
        self.start_ids = request.prompt_ids if decoder_start_ids is None else decoder_start_ids
        self.source_ids = None if decoder_start_ids is None else request.prompt_ids
        self.sampler = TokenSampler(request.sampling)
        self.row: Row | None = None
        self.uses_prefix = False
        """Whether its row keeps its bundle's prefix in memory."""
        self.new_ids: list[int] = []
        tokenizer = backbone.tokenizer
        self._stream = TextStream(
            lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)),
            stop=request.sampling.stop,
            is_stripped=request.is_stripped,
        )

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.request.request_id

    @property
    def group(self) -> str | None:
        """The group of rows that it can share forward passes with."""
        return self.request.version if self.bundle is not None and self.bundle.is_exclusive else None

    @property
    def text_ids(self) -> list[int]:
        """The ids of its text so far: the prompt or the decoder's start, and the generated ones."""
        return [*self.start_ids, *self.new_ids]

    @property
    def last_id(self) -> int:
        """The last of these ids."""
        return self.new_ids[-1] if self.new_ids else self.start_ids[-1]

    @property
    def is_read(self) -> bool:
        """Whether its row holds all of its text."""
        return self.row is not None and self.row.length == len(self.start_ids) + len(self.new_ids)

    @property
    def num_prefix(self) -> int:
        """Prefix columns that its row needs."""
        return 0 if self.bundle is None else self.bundle.num_rows

    @property
    def allowed_ids(self) -> Collection[int] | None:
        """The ids that its next token may be; `None` for all."""
        labels = self.request.labels
        return None if labels is None else labels.next_ids(self.new_ids)

    def job(self, *, arrived_s: float) -> Job:
        """What the scheduler knows of it."""
        bundle = self.bundle
        return Job(
            request_id=self.request_id,
            client=self.request.client,
            group=self.group,
            version=self.request.version,
            prefix_bytes=0 if bundle is None else bundle.num_bytes,
            num_prefix=self.num_prefix,
            num_columns=len(self.request.prompt_ids) + self.request.sampling.max_new_tokens,
            # The encoder reads the source when the row is made, and the decoder its start, all but the last id.
            num_prompt=1 if self.source_ids is not None else len(self.start_ids),
            arrived_s=arrived_s,
            deadline_s=self.request.deadline_s,
        )

    def add(self, token: int, logits: Float[Tensor, " vocabulary"]) -> tuple[str, tuple[TokenLogprobs, ...]]:
        """Add a generated token; return the text that is final now, and log-probabilities if they were asked for."""
        self.new_ids.append(token)
        logprobs = self.sampler.logprobs(logits, token)
        text = "" if token in self.request.stop_ids else self._stream.push(token)
        return text, () if logprobs is None else (logprobs,)

    def rest(self) -> str:
        """The text that was held back, when no token follows."""
        return self._stream.finish()

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ends after its newest token; `None` if it goes on."""
        if self.new_ids[-1] in self.request.stop_ids or self._stream.is_stopped:
            return "stop"
        return "length" if len(self.new_ids) >= self.request.sampling.max_new_tokens else None
