"""The bodies that the API accepts: OpenAI's completions and chat completions, and the names of prefixes to load.

In: the bytes of a body. Out: a request whose every field has its type and range; or an `ApiError` that names the field.
A parameter of OpenAI's API that is not supported is refused by name if its value would change the answer, and accepted
if it changes nothing. A field that is neither OpenAI's nor ours is refused.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from ptl_prefix.artifacts.decoding import MaxNewTokens
from ptl_prefix.serving.api_error import ApiError, invalid

MAX_CHOICES = 16
"""Most texts that one request may ask for: prompts times `n`."""

_IGNORED = {
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
}
"""Parameters of OpenAI's API that cannot change a text of ours."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""Parameters of OpenAI's API that are not supported, and their values that ask for nothing; null always is one."""

_MODEL = Field(max_length=200, description="A task, a task@version, `auto`, or the backbone's name.")
_Body = TypeVar("_Body", bound=BaseModel)


class StreamOptions(BaseModel):
    """What a stream holds besides the text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool | None = Field(default=None, description="Whether a last chunk holds the number of tokens.")
    include_obfuscation: bool | None = Field(default=None, description="Accepted and ignored.")


class GenerationBody(BaseModel):
    """What completions and chat completions share; an omitted setting is the bundle's own."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Annotated[str, _MODEL]
    max_tokens: MaxNewTokens | None = Field(default=None, description="Most tokens to generate.")
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(default=None, description="Texts per prompt.")
    stop: (
        Annotated[str, Field(min_length=1, max_length=256)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=4)]
        | None
    ) = Field(default=None, description="Up to four texts that end the generated text.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(default=None, description="0: most likely token.")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="Mass of nucleus sampling.")
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(default=None, description="Seed of sampling.")
    stream: bool | None = Field(default=None, description="Whether the text comes as server-sent events.")
    stream_options: StreamOptions | None = None
    labels_only: bool | None = Field(
        default=None, description="Whether a classification task answers with one of its labels; false: any text."
    )
    timeout_s: Annotated[float, Field(gt=0, le=86400)] | None = Field(
        default=None, description="Seconds after which the request is given up, at most those of the server."
    )

    @property
    def num_choices(self) -> int:
        """Texts per prompt."""
        return self.n or 1

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The texts that end the generated text."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def max_new_tokens(self) -> int | None:
        """Most tokens to generate; `None`: the bundle's."""
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Number of likely tokens that are reported for each token; `None`: not even the token's own."""
        raise NotImplementedError

    @property
    def streams_usage(self) -> bool:
        """Whether a last chunk holds the number of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionBody(GenerationBody):
    """The body of `POST /v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)] = Field(
        description="The source, or several."
    )
    raw: bool | None = Field(default=None, description="Whether the prompt is read as it is, not as the task's source.")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)

    @property
    def num_logprobs(self) -> int | None:
        """Number of likely tokens that are reported for each token."""
        return self.logprobs


class TextPart(BaseModel):
    """A part of a message's content; others, such as images, are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=256)]
    name: Annotated[str, Field(max_length=200)] | None = Field(default=None, description="Accepted and ignored.")

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(GenerationBody):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    max_completion_tokens: MaxNewTokens | None = Field(default=None, description="Most tokens to generate.")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def max_new_tokens(self) -> int | None:
        """Most tokens to generate; the newer of OpenAI's two names comes first."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Number of likely tokens that are reported for each token; `None`: not even the token's own."""
        return (self.top_logprobs or 0) if self.logprobs else None


class AttentionBody(BaseModel):
    """The body of `POST /v1/prefix_attention`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="A task, or `task@version`.")
    prompt: Annotated[str, Field(max_length=200_000)] = Field(description="A source, as for a completion.")


class PrefixBody(BaseModel):
    """The body of `POST /v1/load_prefix` and `/v1/unload_prefix`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(description="Name of a bundle.")


def read_body(data: bytes, body: type[_Body]) -> _Body:
    """A request of the given kind.

    Raises:
        ApiError: With every field that is wrong.
    """
    try:
        values = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"The body must be JSON in UTF-8, but is not ({error}).", code="invalid_json") from error
    if not isinstance(values, dict):
        raise invalid("The body must be a JSON object, but is none.", code="invalid_json")
    if issubclass(body, GenerationBody):
        values = _supported(values)
    try:
        return body.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from error


def _supported(values: dict[str, Any]) -> dict[str, Any]:
    """The values without those of unsupported parameters, which must ask for nothing."""
    for name in sorted(_NEUTRAL.keys() & values.keys()):
        if values[name] is not None and not any(_is_same(values[name], neutral) for neutral in _NEUTRAL[name]):
            raise invalid(
                f"`{name}` is not supported, as it would change the answer; leave it out.",
                param=name,
                code="unsupported_parameter",
            )
    return {name: value for name, value in values.items() if name not in _IGNORED and name not in _NEUTRAL}


def _is_same(value: Any, neutral: Any) -> bool:
    """Whether two values of JSON are equal, where `false` is not 0."""
    return isinstance(value, bool) is isinstance(neutral, bool) and bool(value == neutral)


def _refusal(error: ValidationError) -> ApiError:
    first_of: dict[str, ErrorDetails] = {}
    for detail in error.errors(include_url=False, include_context=False):
        first_of.setdefault(str(detail["loc"][0]) if detail["loc"] else "", detail)
    sentences = [_sentence(name, detail) for name, detail in first_of.items()]
    return invalid(" ".join(sentences), param=next(iter(first_of), None) or None)


def _sentence(name: str, detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return f"`{name}` must be given."
    if detail["type"] == "extra_forbidden":
        where = ".".join(str(part) for part in detail["loc"])
        return f"`{where}` is not a parameter of this server; leave it out."
    law = detail["msg"].removeprefix("Input should ").replace("a valid string", "a text")
    return f"`{name}` should {law}, but is {_shown(detail['input'])}."


def _shown(value: Any) -> str:
    """A value as a message shows it: short, whatever was sent."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:60]}…"
