"""The commands: one file each and this table. Names and lines of help are here, so that the list needs no command loaded."""

from __future__ import annotations

from zhibei.i18n import N_

# name → (module below this package, line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", N_("Ask a model, or talk with it.")),
    "serve": ("serve", N_("Serve models over HTTP, as OpenAI, Ollama, Anthropic and KoboldCpp do.")),
    "pull": ("pull", N_("Fetch a model, or take one in from a file.")),
    "search": ("search", N_("Look for models, in the catalogue and on the hubs.")),
    "hardware": ("hardware", N_("Show what this machine has for models.")),
    "fit": ("fit", N_("Tell whether a model runs here, how fast, and why.")),
    "recommend": ("recommend", N_("Recommend models for this machine.")),
    "advise": ("advise", N_("Advise which hardware would run a model.")),
    "list": ("list", N_("List the models on this machine.")),
    "show": ("show", N_("Show what is known of a model.")),
    "use": ("use", N_("Use a model that another program keeps, where it lies.")),
    "rm": ("rm", N_("Remove models.")),
    "cp": ("cp", N_("Give a model a second name.")),
    "update": ("update", N_("Fetch newer versions of models.")),
    "verify": ("verify", N_("Read models again and compare them with their digests.")),
    "repair": ("repair", N_("Fetch the damaged parts of a model again.")),
    "prune": ("prune", N_("Remove what belongs to no model.")),
    "launch": ("launch", N_("Start a known client against this server.")),
    "ps": ("ps", N_("List the models that are loaded.")),
    "top": ("top", N_("Watch models, memory and requests, live.")),
    "logs": ("logs", N_("Show what a model's engine wrote.")),
    "stop": ("stop", N_("Unload a model.")),
    "key": ("key", N_("Make, list and revoke the keys of this machine's server.")),
    "discover": ("discover", N_("Look for other servers, whose models can be used here.")),
    "doctor": ("doctor", N_("Say what is wrong here, or slower than it has to be.")),
    "config": ("config", N_("Show the settings and where each comes from.")),
    "version": ("version", N_("Show the version.")),
    "completion": ("completion", N_("Print a script that completes commands in a shell.")),
}

ALIASES = {"ls": "list"}
