"""Whether any graph goes in: tiny models of many architectures, from trace to the artefact that runs."""
