"""demo: the whole job on text and models that packages carry."""
