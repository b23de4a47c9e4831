"""What a request is for: the model behind a name, with all that the settings and its packer say. Knows no engine and no queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from zhibei.errors import BadReference, BadRequest, ModelNotFound
from zhibei.models import ModelDefaults, StoredModel
from zhibei.options import LoadOptions
from zhibei.plans import Task
from zhibei.runtime import naming
from zhibei.runtime.defaults import load_options
from zhibei.runtime.named_files import with_absolute_paths
from zhibei.settings import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """A model, and how it is wanted."""

    model: StoredModel
    task: Task
    load: LoadOptions
    wishes: naming.Wishes

    @property
    def key(self) -> str:
        """The same for requests that can share an engine."""
        return f"{self.model.name} {self.task} {self.load!r} {self.model.model_path}"

    @property
    def defaults(self) -> ModelDefaults | None:
        """The packer's wishes, with the system text that the settings put in its place."""
        if self.wishes.system is None:
            return self.model.defaults
        return replace(self.model.defaults or ModelDefaults(), system=self.wishes.system)


class Names:
    """The models that names stand for."""

    def __init__(self, settings: Settings, resolve: Callable[[str], StoredModel]) -> None:
        """Args:
            resolve: the library's.

        Raises:
            BadSetting: an alias stands for two models.
        """
        naming.aliases_of(settings)
        self._settings = settings
        self._resolve = resolve

    def find(self, name: str) -> StoredModel:
        """The model of that name, else the one that it is an alias of.

        Raises:
            UserError, StoreError, SourceError, ModelFileError: as the library has it.
        """
        try:
            return self._resolve(name)
        except (ModelNotFound, BadReference, BadRequest):
            target = naming.target_of(self._settings, name)
            if target is None:
                raise
            return self._resolve(target)

    def asked(self, name: str, task: Task, load: LoadOptions) -> Asked:
        """What a request is for. Raises what ``find`` does."""
        model = self.find(name)
        wishes = naming.wishes_of(self._settings, model, name, naming.target_of(self._settings, name) or name)
        return Asked(model, task, with_absolute_paths(load_options(load, model.defaults, wishes.load)), wishes)
