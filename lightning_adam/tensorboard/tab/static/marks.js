// Which cells of a heatmap the findings above info concern: these say that something does harm (marks.py says it to the picture).

/** spans: from where to where on the step axis each column reaches. Of each finding: its rule, columns, and rows (null: all). */
export function marks(spans, findings, names) {
  return findings
    .filter((finding) => finding.severity !== 'info')
    .map((finding) => ({
      rule: finding.rule,
      columns: Uint8Array.from(spans, ([before, after]) => before <= finding.last_step && after > finding.step),
      rows: rowsOf(finding, names),
    }));
}

/** The rows of the tensors that a finding concerns; null where it names none that is here, and concerns them all. */
export function rowsOf(finding, names) {
  const rows = new Set(finding.parameters.map((name) => names.indexOf(name)).filter((row) => row >= 0));
  return rows.size ? rows : null;
}

/** Those that concern one of these rows. */
const concerning = (found, rows) => found.filter((mark) => !mark.rows || rows.some((row) => mark.rows.has(row)));

/** Of each column, whether a finding lasts there that concerns one of these rows (any row, where none are given): 1 or 0. */
export function markedColumns(found, columns, rows = null) {
  const flags = new Uint8Array(columns);
  for (const mark of rows ? concerning(found, rows) : found) for (let c = 0; c < columns; c++) flags[c] |= mark.columns[c];
  return flags;
}

/** The rules of the findings that last at a column and concern one of these rows. */
export function rulesAt(found, column, rows) {
  const lasting = concerning(found, rows).filter((mark) => mark.columns[column]);
  return [...new Set(lasting.map((mark) => mark.rule))];
}
