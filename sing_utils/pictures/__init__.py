"""From embeddings to pictures: decoders, the nearest photographs, pictures searched for by their pixels."""
