// Tables sort by a click on a heading and are filtered by words; predictions have a slider. No other script is needed.
"use strict"

const numberIn = (text) => {
  const found = text.replace(/,/g, "").match(/[-+\u2212]?\d+(\.\d+)?(e[-+]?\d+)?/i)
  return found ? Number(found[0].replace("\u2212", "-")) : null
}

const cellsOf = (table, column) => [...table.tBodies[0].rows].map((row) => row.cells[column])
const missing = (text) => text === "-" || text === ""

function numeric(table, column) {
  const said = cellsOf(table, column).map((cell) => cell.textContent.trim()).filter((text) => !missing(text))
  return said.length > 0 && said.every((text) => /^[-+\u2212]?\d/.test(text) && numberIn(text) !== null)
}

function order(table, column, ascending) {
  const body = table.tBodies[0]
  const keyed = [...body.rows].map((row) => {
    const text = row.cells[column].textContent.trim()
    return { row, text, number: numberIn(text), empty: missing(text) }
  })
  const byNumber = numeric(table, column)
  keyed.sort((a, b) => {
    if (a.empty || b.empty) return a.empty - b.empty // what is missing stays last either way
    const by = byNumber ? a.number - b.number : a.text.localeCompare(b.text, "en", { numeric: true })
    return ascending ? by : -by
  })
  for (const { row } of keyed) body.appendChild(row)
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells]
  heads.forEach((head, column) => {
    head.tabIndex = 0
    head.title = "sort"
    head.classList.add("sortable")
    for (const cell of [head, ...cellsOf(table, column)]) cell.classList.add(numeric(table, column) ? "number" : "words")
    const act = () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending"
      heads.forEach((other) => other.removeAttribute("aria-sort"))
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending")
      order(table, column, ascending)
    }
    head.addEventListener("click", act)
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault()
        act()
      }
    })
  })
}

function filterable(table) {
  const rows = [...table.tBodies[0].rows]
  const label = document.createElement("label")
  label.className = "filter"
  const box = document.createElement("input")
  box.type = "search"
  box.placeholder = "rows with these words"
  box.setAttribute("aria-label", "show only rows with these words")
  const count = document.createElement("span")
  label.append(box, count)
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean)
    let shown = 0
    for (const row of rows) {
      const text = row.textContent.toLowerCase()
      row.hidden = !words.every((word) => text.includes(word))
      shown += !row.hidden
    }
    count.textContent = words.length ? `${shown} of ${rows.length}` : ""
  })
  table.before(label)
}

function slider(frames) {
  const images = [...frames.querySelectorAll("img")]
  const controls = document.createElement("div")
  controls.className = "frames-controls"
  const range = document.createElement("input")
  Object.assign(range, { type: "range", min: 0, max: images.length - 1, value: 0 })
  range.setAttribute("aria-label", "frame")
  const said = document.createElement("output")
  const show = () => {
    images.forEach((image, place) => (image.hidden = place !== Number(range.value)))
    said.textContent = `${images[range.value].title} (${Number(range.value) + 1} of ${images.length})`
  }
  range.addEventListener("input", show)
  controls.append(range, said)
  frames.prepend(controls)
  show()
}

for (const table of document.querySelectorAll(".md-content table:not([class])")) {
  if (table.tHead && table.tBodies.length && table.tBodies[0].rows.length > 1) {
    sortable(table)
    if (table.tBodies[0].rows.length > 3) filterable(table)
  }
}
document.querySelectorAll(".frames").forEach(slider)
