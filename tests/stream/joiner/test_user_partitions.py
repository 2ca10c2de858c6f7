"""Which users belong to another partition."""

from hypothesis import given
from hypothesis import strategies as st

from stream.joiner.user_partitions import misplaced
from stream.log import partition_of


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=24), max_size=30), st.integers(1, 13))
def test_users_in_bulk_have_the_partitions_that_they_have_singly(users: list[str], partitions: int) -> None:
    """Kafka's own hash, whatever the text."""
    for partition in range(partitions):
        wrong = [n for n, user in enumerate(users) if partition_of(user, partitions) != partition]
        assert misplaced(users, partition, partitions) == wrong
