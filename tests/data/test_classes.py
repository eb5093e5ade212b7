import pytest

from emotion.data.classes import (
    CLASSES,
    CSV_CLASSES,
    FERPLUS,
    SPELLINGS,
    ClassRule,
    canonical,
    closest,
    count_images,
    listed,
)
from emotion.errors import UserError


def places(*labels: str) -> dict[str, str]:
    return {label: f"faces/{label}" for label in labels}


def resolve(*labels: str, **settings):
    return ClassRule(**settings).resolve(places(*labels))


def refusal(*labels: str, **settings) -> str:
    with pytest.raises(UserError) as caught:
        resolve(*labels, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ids_are_alphabetical_except_in_the_csv_where_neutral_is_last():
    assert list(CLASSES) == sorted(CLASSES) == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert CSV_CLASSES == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert list(FERPLUS) == sorted([*CLASSES, "contempt"]) == list(SPELLINGS)


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("angry", ["angry", "anger"]),
        ("contempt", ["contempt", "contemptuous"]),
        ("disgust", ["disgust", "disgusted"]),
        ("fear", ["fear", "fearful"]),
        ("happy", ["happy", "happiness"]),
        ("neutral", ["neutral", "neutrality"]),
        ("sad", ["sad", "sadness"]),
        ("surprise", ["surprise", "surprised"]),
    ],
)
def test_labels_are_known_in_every_spelling_and_case(name, folders):
    for folder in folders:
        for written in (folder, folder.upper(), folder.capitalize(), folder.swapcase(), f" {folder} "):
            assert canonical(written) == name


def test_labels_are_compared_without_case_accents_form_and_leading_zeros():
    assert canonical("Erregt\u0308") == canonical("ERREGT\u0308")
    assert canonical("u\u0308ber") == canonical("\u00dcber") == "\u00fcber"
    assert canonical("007") == canonical(" 7") == "7"
    assert canonical("happ") == "happ"


# classes=auto


def test_spellings_of_the_seven_are_the_seven_even_where_some_are_missing():
    found = resolve("Sadness", "anger", "HAPPY")
    assert found.names == CLASSES
    assert found.ids == {"Sadness": 5, "anger": 0, "HAPPY": 3}
    assert resolve().names == CLASSES


def test_other_labels_are_the_classes_themselves():
    found = resolve("happy", "Contempt", "anger")
    assert found.names == ("Contempt", "anger", "happy")
    assert found.ids == {"happy": 2, "Contempt": 0, "anger": 1}


def test_spellings_of_one_other_class_are_one_class():
    found = resolve("Bored", "bored", "happy", "Happiness", "awake")
    assert found.names == ("awake", "bored", "happy")
    assert found.ids == {"Bored": 1, "bored": 1, "happy": 2, "Happiness": 2, "awake": 0}


def test_numbers_ask_for_names():
    assert refusal("10", "2", "1") == (
        "faces/1: the classes are numbers (1, 2, 10); name every number up to 10 with classes=[<name>,<name>,...]"
    )
    assert "classes=[<name>,<name>,...]" in refusal("0", "1", classes="ferplus")


# Lists of names


def test_names_of_a_list_keep_their_order_and_match_by_spelling():
    found = resolve("anger", "HAPPINESS", "Calm", classes=["calm", "happy", "angry"])
    assert found.names == ("calm", "happy", "angry")
    assert found.ids == {"anger": 2, "HAPPINESS": 1, "Calm": 0}
    assert resolve("happy", classes=["Happiness", "Anger"]).names == ("Happiness", "Anger")


def test_ferplus_has_eight_classes():
    found = resolve("happiness", "contempt", classes="ferplus")
    assert found.names == FERPLUS
    assert found.ids == {"happiness": 4, "contempt": 1}


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        (("0", "1", "2"), [0, 1, 2]),
        (("1", "2", "3"), [0, 1, 2]),
        (("2", "3"), [1, 2]),
        (("2", "0"), [2, 0]),
        (("03", "01"), [2, 0]),
    ],
)
def test_numbers_count_along_the_list_from_0_if_it_occurs_otherwise_from_1(labels, ids):
    found = resolve(*labels, classes=["calm", "happy", "angry"])
    assert [found.ids[label] for label in labels] == ids
    assert found.names == ("calm", "happy", "angry")


def test_numbers_are_sorted_as_numbers():
    names = [f"class {letter}" for letter in "abcdefghijk"]
    found = resolve(*map(str, range(1, 12)), classes=names)
    assert [found.ids[str(number)] for number in range(1, 12)] == list(range(11))


def test_numbers_beyond_the_list_are_named():
    names = ["calm", "happy"]
    assert refusal("1", "2", "3", classes=names) == (
        "faces/3: class 3 is beyond the names calm, happy; name every number up to it, or exclude=[3] leaves it out"
    )
    assert refusal("0", "1", "2", classes=names).startswith("faces/2: class 2 is beyond")
    assert resolve("1", "2", "3", classes=names, others="skip").ids == {"1": 0, "2": 1, "3": None}


def test_numbers_that_may_count_from_0_or_from_1_are_not_guessed_for_other_images_than_those_of_the_training():
    names = ("a", "b", "c", "d")
    assert resolve("1", "4", classes=names, guess=False).ids == {"1": 0, "4": 3}
    assert resolve("0", "1", classes=names, guess=False).ids == {"0": 0, "1": 1}
    assert resolve("3", "1", classes=names, others="skip").ids == {"1": 0, "3": 2}
    assert refusal("3", "1", classes=names, guess=False) == (
        "faces/1: the numbers 1, 3 count from 0 or from 1, which no 0 and no 4 tells; write the names in place of the "
        "numbers"
    )


def test_excluded_labels_beside_numbers_do_not_count():
    found = resolve("1", "2", "3", "misc", classes=["a", "b", "c"], exclude=["misc"])
    assert found.ids == {"1": 0, "2": 1, "3": 2, "misc": None}
    assert refusal("1", "2", "misc", classes=["a", "b"]).startswith("faces/1: class '1' is not one of a, b")


def test_names_that_are_numbers_are_names():
    found = resolve("7", "5", classes=["5", "7"])
    assert found.ids == {"7": 1, "5": 0}


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ("FER", "classes=FER: not auto, ferplus or a list of names"),
        (["happy"], "classes: 1 (happy); 2 to 1,000 are legal"),
        ([], "classes: 0 (none); 2 to 1,000 are legal"),
        ([f"c{number}" for number in range(1001)], "classes: 1,001 (c0, c1,"),
        (["happy", "Happiness"], "classes: happy, Happiness are the same class; name each once"),
        (["happy", ""], "classes: '' is no class name"),
        (["happy", "two\nlines"], r"classes: 'two\nlines' is no class name"),
        (["happy", "x" * 65], "is no class name; one has 1 to 64 printable characters"),
    ],
)
def test_illegal_names_are_refused(classes, text):
    assert text in refusal("happy", classes=classes)


def test_names_may_have_64_characters_and_be_1000():
    assert resolve(classes=["x" * 64, "y"]).names == ("x" * 64, "y")
    assert len(resolve(classes=[f"c{number}" for number in range(1000)]).names) == 1000


def test_labels_that_cannot_be_names_are_refused():
    assert "'a\\nb' is no class name" in refusal("a\nb", "c")
    assert refusal("only") == "classes: 1 (only); 2 to 1,000 are legal"
    assert refusal(*(f"photo{number}" for number in range(1001))).startswith("classes: 1,001 (photo0, photo1, ")


# Labels outside


def test_a_label_outside_names_itself_the_place_the_classes_the_closest_and_the_remedy():
    assert refusal("happy", "suprise", classes=CLASSES) == (
        "faces/suprise: class 'suprise' is not one of angry, disgust, fear, happy, neutral, sad, surprise "
        "(is it surprise?); exclude=[suprise] leaves it out"
    )
    assert refusal("angery", classes=["Anger", "Joy"]) == (
        "faces/angery: class 'angery' is not one of Anger, Joy (is it Anger?); exclude=[angery] leaves it out"
    )
    assert "contempt' is not one of happy, sad; exclude=[contempt]" in refusal("contempt", classes=["happy", "sad"])


def test_a_number_among_names_is_outside():
    assert refusal("happy", "3", classes=["happy", "sad"]).startswith("faces/3: class '3' is not one of happy, sad; ")


def test_others_are_skipped_and_described_if_requested():
    found = resolve("happy", "suprise", "contempt", classes=CLASSES, others="skip")
    assert found.names == CLASSES
    assert found.ids == {"happy": 3, "suprise": None, "contempt": None}
    assert found.skipped == ("suprise", "contempt")
    assert found.describe_skipped({"suprise": 1, "contempt": 1234, "happy": 7}) == (
        "left out, since they are none of the classes angry, disgust, fear, happy, neutral, sad, surprise: "
        "suprise (1 image; is it surprise?), contempt (1,234 images)"
    )


# exclude


def test_excluded_labels_are_left_out_before_the_classes_are_chosen():
    found = resolve("happy", "Contempt", "sad", exclude=["contempt"])
    assert found.names == CLASSES
    assert found.ids == {"happy": 3, "Contempt": None, "sad": 5}
    assert found.skipped == ()


def test_an_excluded_one_of_the_seven_leaves_the_other_six():
    found = resolve("happy", "sadness", "fear", exclude=["SAD"])
    assert found.names == ("angry", "disgust", "fear", "happy", "neutral", "surprise")
    assert found.ids == {"happy": 3, "sadness": None, "fear": 2}
    assert resolve("contempt", "sad", classes="ferplus", exclude=["contempt"]).names == CLASSES


def test_excluded_labels_leave_a_list_and_other_names():
    assert resolve("a", "b", "c", exclude=["b"]).names == ("a", "c")
    assert resolve("a", "b", "c", classes=["c", "b", "a"], exclude=["b"]).ids == {"a": 1, "b": None, "c": 0}


def test_excluded_numbers_may_lie_beyond_the_list():
    found = resolve("0", "1", "2", "3", "10", classes=["calm", "happy"], exclude=[2, 3, "10"])
    assert found.names == ("calm", "happy")
    assert found.ids == {"0": 0, "1": 1, "2": None, "3": None, "10": None}


@pytest.mark.parametrize("excluded", [0, "00", "calm", "CALM"])
def test_excluding_0_does_not_move_the_other_numbers(excluded):
    found = resolve("0", "1", "2", classes=["calm", "happy", "sad"], exclude=[excluded])
    assert found.names == ("happy", "sad")
    assert found.ids == {"0": None, "1": 0, "2": 1}
    assert "class 2 is beyond" in refusal("0", "1", "2", classes=["happy", "sad"], exclude=[0])


@pytest.mark.parametrize("excluded", ["contemp", "fear", 3])
def test_excluded_labels_must_occur(excluded):
    assert refusal("contempt", "happy", exclude=[excluded]) == (
        f"exclude={excluded}: no such class; found: contempt, happy"
    )


def test_classes_without_images_may_be_excluded():
    assert resolve("happy", "sad", exclude=["fear"]).names == tuple(name for name in CLASSES if name != "fear")
    assert resolve("1", "3", classes=["a", "b", "c"], exclude=["b"]).names == ("a", "c")


def test_too_few_classes_may_remain():
    assert refusal("a", "b", exclude=["a"]) == "classes: 1 (b); 2 to 1,000 are legal"


def test_the_rule_of_fer2013_means_the_seven_by_auto():
    assert ClassRule().of_seven().classes == CLASSES
    assert ClassRule(["happy", "sad"]).of_seven().classes == ["happy", "sad"]
    assert ClassRule("ferplus").of_seven().classes == "ferplus"


def test_numbers_count_only_along_a_list_that_the_user_wrote_for_this_data(caplog: pytest.LogCaptureFixture) -> None:
    """FER2013's folders 0..6 would be in the challenge's order, and extra data in the order of whoever numbered it."""
    found = {str(number): f"data/{number}" for number in range(7)}
    with pytest.raises(UserError, match="name numbered classes with classes="):
        ClassRule().of_seven().resolve(found)
    extra = ClassRule(CLASSES, others="skip", counts=False).resolve(found)
    assert (set(extra.ids.values()), len(extra.skipped)) == ({None}, 7)
    with caplog.at_level("WARNING"):
        assert ClassRule(["a", "b", "c"]).resolve({"1": "x/1", "2": "x/2"}).ids == {"1": 0, "2": 1}
    assert "numbers count from 1, since there is no 0: 1 is a" in caplog.text


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        *(
            ("angery", "angry"),
            ("hapy", "happy"),
            ("suprise", "surprise"),
            ("Disgut", "disgust"),
            ("neutrl", "neutral"),
        ),
        *(("nuetral", "neutral"), ("fearfull", "fear"), ("sadnes", "sad"), ("surprize ", "surprise")),
        *(
            (word, None)
            for word in ("cheerful", "peaceful", "tearful", "unhappy", "mad", "natural", "danger", "content")
        ),
        ("", None),
    ],
)
def test_only_a_misspelling_is_taken_for_another_class(label, meant):
    assert closest(label, FERPLUS) == meant


def test_names_with_a_comma_are_listed_in_quotes():
    assert listed(["looking downwards, eyes closed", "smiling"]) == "'looking downwards, eyes closed', smiling"


def test_one_image_is_in_the_singular():
    assert [count_images(number) for number in (0, 1, 1234)] == ["0 images", "1 image", "1,234 images"]
