"""TF-IDF features of orders and sentences of reports."""

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion


def words(most: int = 2) -> TfidfVectorizer:
    """Words and sequences of up to `most` of them."""
    # Single letters and digits carry meaning in orders ("L knee", "T 2"), so words of one character count.
    return TfidfVectorizer(ngram_range=(1, most), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")


def words_and_characters(most_words: int = 2) -> FeatureUnion:
    """[`words`], and 2 to 5 characters within words, which survive typing errors."""
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    return FeatureUnion([("words", words(most_words)), ("characters", characters)])
