"""What a backbone knows of the methods that are attached to it."""

from abc import ABC, abstractmethod


class Attachment(ABC):
    """A bundle's method on a backbone; `Backbone.attachments` lists them."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The method's kind, as bundles name it."""

    @property
    @abstractmethod
    def is_exclusive(self) -> bool:
        """Whether it acts in every forward pass while attached, so that no other bundle can share the backbone."""

    @property
    @abstractmethod
    def is_attached(self) -> bool:
        """Whether it still is on the backbone."""

    @abstractmethod
    def detach(self) -> None:
        """Take it off the backbone."""
