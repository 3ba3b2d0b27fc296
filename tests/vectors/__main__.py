"""Writes the files in protos/vectors."""

from tests.vectors.files import made_vectors
from tests.vectors.form import FOLDER, text_of

if __name__ == "__main__":
    for name, vectors in made_vectors().items():
        path = FOLDER / f"{name}.json"
        path.write_text(text_of(vectors), encoding="utf-8")
        print(f"{path}: {len(vectors)} vectors, {path.stat().st_size:,} bytes")
