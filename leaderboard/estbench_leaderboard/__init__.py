"""The public board over an estbench database: pages, API, submissions and their moderation.

    app.py              the FastAPI application: routes, headers, language, errors
    snapshot.py         what the pages are made of, read once a version of the database
    query.py            what a URL of the board asks for, and that as a sentence
    submissions/        bundles from outside: sending, taking in, rescoring, auditing, moderating
    locale/             every word of the interface, in Estonian and English

It imports estbench; estbench imports nothing of it but by name, when one of its commands is called.
"""
