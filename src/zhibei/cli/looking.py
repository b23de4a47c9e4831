"""Looking at a model wherever it lies, for questions about it: here, in the catalogue, or by its header at its source. I/O."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from zhibei.cli.invocation import Invocation
from zhibei.cli.render import printable
from zhibei.errors import SourceError

if TYPE_CHECKING:
    from zhibei.store.appraisal import Appraisal, Appraised


def appraise(invocation: Invocation, reference: str) -> Appraisal:
    """What the reference names; a model of the catalogue whose source cannot be read, as the catalogue has it.

    Raises:
        As ``store.appraisal.appraise``.
    """
    import asyncio

    from zhibei.app import places, pull_options
    from zhibei.judging.catalogue import appraised_entry
    from zhibei.store import appraisal
    from zhibei.store.library import Library

    settings = invocation.settings
    invocation.printer.transient(invocation.text("Looking at {model} …", model=printable(reference)))
    library = Library(settings.home, places=partial(places, settings))
    try:
        return asyncio.run(appraisal.appraise(reference, library, pull_options(settings)))
    except SourceError as error:
        found = appraised_entry(reference)
        if found is None:
            raise
        invocation.warn("The source of {model} could not be read: {reason}", model=reference, reason=error)
        return found
    finally:
        invocation.printer.clear_transient()


def appraise_quickly(invocation: Invocation, reference: str) -> Appraisal:
    """As ``appraise``, but a model of the catalogue is known well enough by its table, and no hub is asked."""
    from zhibei.judging.catalogue import appraised_entry

    return appraised_entry(reference) or appraise(invocation, reference)


def usual_form(found: Appraisal) -> Appraised:
    """Of several quantisations the one that is taken where nothing is said: four bits."""
    from zhibei.store.sources.base import Variant, prefer_four_bits

    if len(found.models) == 1:
        return found.models[0]
    variants = {Variant(form.label or "", form.model.size_bytes): form for form in found.models}
    return variants[prefer_four_bits(tuple(variants))]
