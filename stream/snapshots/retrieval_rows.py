"""What a version carries of items for retrieval. The payload of the part `retrieval`, of n items:

    keys      uint64 [n]        ids of `item.id`
    installs  float32 [n]       they fade
    listed    uint64 [n, K]     ids of items that are installed together with it; 0: none
    weights   float32 [n, K]    by how much
    inputs    float32 [n, D]    its vector as one of a user's items
    outputs   float32 [n, D]    its vector as the next item
    biases    float32 [n]       what is added to a user's vector · outputs
    dead      uint64 [m]        in a delta: items that were evicted

K and D are the spec's `retrieval.list_length` and `vector_dim`. The part is optional. A row may be behind the
learner's: it goes out when a sixteenth more pairs were counted.
"""

from typing import Final

RETRIEVAL_PART: Final = "retrieval"
