import pytest

from radrecipes.radiology.language import language_evidence


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("The lungs are clear without effusion.", 1),
        ("Lungs clear. Heart normal. No effusion.", 1),
        ("No intracranial hemorrhage. The ventricles are not dilated.", 1),
        ("Stable cardiomegaly.", 0),
        ("Non-displaced left rib fracture. Rib fracture.", 0),
        ("Non displaced rib fracture, e.g. in the sixth.", 1),
        ("LA enlargement. Cardiomegaly.", 0),
        ("Intact IM rod. Cardiomegaly.", 0),
        ("ET tube in place. Cardiomegaly.", 0),
        ("ET TUBE IN PLACE. CARDIOMEGALY.", 0),
        ("SIN DERRAME PLEURAL NI NEUMOTORAX EN LA BASE.", -1),
        ("Sin derrame pleural ni neumotorax.", -1),
        ("Keine Infiltrate, kein Erguss.", -1),
        ("Pas d'épanchement pleural.", -1),
        ("Non versamento pleurico.", -1),
        ("Sem derrame pleural.", -1),
        ("Geen pleuravocht, het hart is niet vergroot.", -1),
        ("Лёгкие без очаговых изменений.", -1),
        ("両肺に異常なし", -1),
        ("", 0),
    ],
)
def test_reports_show_their_language(text, sign):
    evidence = language_evidence(text)
    assert (evidence > 0) - (evidence < 0) == sign
