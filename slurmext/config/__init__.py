"""The YAML a site writes: `site` (where things are), `policy` (who gets what), and errors that name file and line.

Turns YAML into model types; pydantic checks the shape, an unknown key is an error. May import model and errors only.
"""
