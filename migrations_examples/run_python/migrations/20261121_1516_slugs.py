"""Articles get slugs."""

import re
import unicodedata

import sqlalchemy as sa

from zdmigrate import AddColumn, Migration, RunPython


def slug(title):
    plain = unicodedata.normalize("NFKD", title.replace("ß", "ss")).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def fill_slugs(connection):
    after = 0
    while rows := connection.execute(
        "SELECT id, title FROM articles WHERE id > %s AND slug IS NULL ORDER BY id LIMIT 100 FOR NO KEY UPDATE", [after]
    ).fetchall():
        slugs = [(slug(title), number) for number, title in rows]
        connection.cursor().executemany("UPDATE articles SET slug = %s WHERE id = %s", slugs)
        after = rows[-1][0]
        yield


migration = Migration(
    AddColumn("articles", sa.Column("slug", sa.Text)),
    RunPython(fill_slugs, revert=[], locks={"articles": "ROW EXCLUSIVE"}),
)
