"""The page that compares runs which were trained and evaluated."""

from tests.support.helpers import (
    STAGE_1_NAME,
    read_summary,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
)


def test_the_page_shows_both_stages_as_their_files_have_them(tree, both, compare):
    folders = both / STAGE_1_NAME, stage_2_folder(both)
    for command in (stage_1(tree, both), stage_2(tree, both)):
        succeed([*command, "--evaluation", "True"])

    shown = compare(*folders)

    columns = shown.rows[0]
    rows = [row for row in shown.rows if row[0].startswith("selected on test ")]
    for row, folder in zip(rows, folders, strict=True):
        selected = read_summary(folder)["test"]["selected"]
        assert row[0] == f"selected on test ({selected['epoch']})"
        expected = {
            "Top-1": selected["linear"]["top1"],
            "Balanced": selected["linear"]["balanced"],
            "NCM": selected["ncm"]["top1"],
        }
        for column, value in expected.items():
            assert row[columns.index(column)] == f"{value:.2f}", column
    figures = {attributes["id"] for attributes in shown.all("figure")}
    of_both = ("accuracy_by_size", "reliability", "confusion")
    assert figures >= {f"{group}_{name}" for group in "AB" for name in of_both}
    assert figures >= {"B_margins_by_size", "B_features_after_stage_2"}
