"""The results site: guides, tables, claims, records, plots and the reference, as static pages that need no network."""
