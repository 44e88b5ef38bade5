const data = JSON.parse(document.getElementById('data').textContent), n = data.pictures.length
const position = new Map(data.pictures.map((name, i) => [name, i])), ofClusters = ['name', 'merge', 'split']
let steps = [], state

function clusterOf(text, names) { // its number, from a number or a name; -1 where there is none
  const said = text.replace(/^cluster:/, '')
  return /^\d+$/.test(said) && +said < names.length ? +said : names.indexOf(said)
}

function replay(rows) {
  const s = {cluster: [...data.cluster], names: [...data.clusters], label: data.label.map(k => data.classes[k] ?? ''), split: new Set(), gone: new Set(), ignored: 0}
  for (const [what, action, value] of rows) {
    const i = position.get(what), k = ofClusters.includes(action) ? clusterOf(what, s.names) : -1, to = clusterOf(value, s.names)
    if (k >= 0 && action == 'name') s.names[k] = value
    else if (k >= 0 && action == 'split') s.split.add(k)
    else if (k >= 0 && action == 'merge' && to >= 0 && to != k) { s.names[to] ||= s.names[k]; s.names[k] = ''; s.cluster = s.cluster.map(c => c == k ? to : c); s.gone.add(k) }
    else if (i >= 0 && action == 'move' && to >= 0) s.cluster[i] = to
    else if (i >= 0 && action == 'label') s.label[i] = value
    else if (i >= 0 && action == 'stranger') s.cluster[i] = -1
    else s.ignored++
  }
  return s
}

function clusterName(k) { return k < 0 ? 'belongs to none' : state.names[k] || `cluster ${k}` }

function toCSV(rows) {
  const last = new Map()
  for (const row of rows) { const key = JSON.stringify(row.slice(0, 2)); last.delete(key); last.set(key, row) }
  const safe = text => /^[=+\-@\t\r']/.test(text) ? `'${text}` : text // of which no spreadsheet runs a cell
  const quoted = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
  return [['picture', 'action', 'value'], ...last.values()].map(row => row.map(safe).map(quoted).join(',') + '\n').join('')
}

function fromCSV(text) {
  const rows = [[]]
  for (const [, quoted, plain, end] of text.replace(/^\ufeff/, '').matchAll(/(?:"((?:[^"]|"")*)"|([^,\r\n]*))(,|\r?\n|$)/g)) {
    rows.at(-1).push(quoted?.replaceAll('""', '"') ?? plain)
    if (end != ',') rows.push([])
  }
  const found = rows.filter(row => row.join('')).map(row => row.map(cell => cell.replace(/^'(?=[=+\-@\t\r'])/, '')))
  if (found[0]?.join() != 'picture,action,value' || found.some(row => row.length != 3)) throw new Error('it is no table of picture, action and value')
  return found.slice(1)
}

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()
const edges = [0, .5, .6, .7, .8, .9, .95, .99], ramp = ['#a50026', '#d73027', '#f46d43', '#fdae61', '#b8b8d0', '#91bfdb', '#4575b4', '#313695']
const grey = '#9a9a9a'

const colourings = {
  cluster() {
    const entries = state.names.map((_, k) => ({name: clusterName(k), colour: data.colors[k], k, named: true}))
    return {entries: [...entries, {name: clusterName(-1), colour: grey}], values: state.cluster.map(k => k < 0 ? entries.length : k)}
  },
  label: () => byName(state.label, [...new Set([...data.classes, ...state.label])].filter(Boolean), 'no label'),
  confidence() {
    const entries = edges.map((edge, k) => ({name: k + 1 < edges.length ? `${edge} to ${edges[k + 1]}` : `${edge} and above`, colour: ramp[k]}))
    return {entries, values: data.confidence.map(c => edges.findLastIndex(edge => c >= edge))}
  },
  audit: () => byName(data.audit, [...new Set(data.audit)].filter(Boolean), 'nothing found'),
}

function byName(names, known, rest) {
  const entries = [...known.map((name, k) => ({name, colour: data.colors[k % data.colors.length], named: true})), {name: rest, colour: grey}]
  const at = new Map(known.map((name, k) => [name, k]))
  return {entries, values: names.map(name => at.get(name) ?? known.length)}
}

const stage = document.getElementById('stage'), points = document.getElementById('points'), over = document.getElementById('pictures'), brush = over.getContext('2d')
const dark = matchMedia('(prefers-color-scheme: dark)')
let plot, colouring, chosen = {pictures: []}, hovered = -1, drawing = Promise.resolve()
const flat = data.x.map(x => 2*x/data.span - 1).map(x => .95*x), upright = data.y.map(y => .95*(2*y/data.span - 1))

function start() {
  plot = ReglScatterplot.createScatterplot({canvas: points, pointSize: n > 3000 ? 5 : 8, pointOutlineWidth: 2, opacity: .9, opacityInactiveMax: .25,
    opacityInactiveScale: 1, lassoColor: '#e67700', keyMap: {shift: 'lasso', ctrl: 'merge'}, deselectOnEscape: false, deselectOnDblClick: false,
    pointColorHover: '#e67700', spatialIndexUseWorker: false, colorBy: 'valueA'})
  plot.subscribe('pointover', i => { hovered = i; hover() })
  plot.subscribe('pointout', () => { hovered = -1; hover() })
  plot.subscribe('select', ({points}) => choose({pictures: [...points]}))
  plot.subscribe('deselect', () => choose({pictures: []}))
  plot.subscribe('view', () => { hover(); requestAnimationFrame(thumbnails) })
  new ResizeObserver(() => { over.width = stage.clientWidth*devicePixelRatio; over.height = stage.clientHeight*devicePixelRatio; requestAnimationFrame(thumbnails) }).observe(stage)
  dark.addEventListener('change', paint)
}

function middle(members) { // the picture nearest to the medians of the places
  const median = values => values.sort((a, b) => a - b)[values.length >> 1], x = median(members.map(i => flat[i])), y = median(members.map(i => upright[i]))
  return members.reduce((a, b) => Math.hypot(flat[a] - x, upright[a] - y) <= Math.hypot(flat[b] - x, upright[b] - y) ? a : b)
}

function paint() {
  colouring = colourings[document.getElementById('colour').value]()
  const members = colouring.entries.map(() => [])
  colouring.values.forEach((value, i) => members[value].push(i))
  colouring.entries.forEach((entry, value) => { if (entry.named && members[value].length) entry.middle = middle(members[value]) })
  const colours = colouring.entries.map(entry => entry.colour)
  if (colours.length == 1) colours.push(grey) // one colour alone would be no list
  drawing = drawing.then(async () => {
    plot.set({pointColor: colours, pointColorActive: colours, backgroundColor: css('--page')})
    await plot.draw({x: flat, y: upright, valueA: colouring.values}, {zDataType: 'categorical'})
    mark()
  })
  legend()
  return drawing
}

function mark() {
  if (chosen.pictures.length) plot.select(chosen.pictures, {preventEvent: true})
  else plot.deselect({preventEvent: true})
  requestAnimationFrame(thumbnails)
}

const sheets = []
data.sheets.forEach(async (text, k) => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt())
  sheets[k] = await createImageBitmap(new Blob([bytes], {type: 'image/webp'})) // decoded beside the page's own work
  if (plot) requestAnimationFrame(thumbnails)
})

function cut(brush, i, x, y, size) { // one thumbnail out of its sheet
  const image = sheets[Math.floor(i/data.per_sheet)], k = i % data.per_sheet, side = data.side
  if (!image) return false
  brush.imageSmoothingEnabled = size < 2*side
  brush.drawImage(image, side*(k % data.columns), side*Math.floor(k/data.columns), side, side, x, y, size, size)
  return true
}

function thumbnails() {
  brush.clearRect(0, 0, over.width, over.height)
  if (!plot?.get('isPointsDrawn')) return
  if (!data.side) return names()
  const seen = plot.get('pointsInView'), taken = [], ratio = devicePixelRatio
  if (seen.length > 400) return names()
  const size = Math.round(Math.min(96, Math.max(20, .6*Math.sqrt(stage.clientWidth*stage.clientHeight/Math.max(1, seen.length)))))
  const bright = new Set(chosen.pictures)
  brush.lineWidth = 2*ratio
  for (const i of [...seen].sort((a, b) => bright.has(b) - bright.has(a))) {
    const [x, y] = plot.getScreenPosition(i)
    if (taken.some(([a, b]) => Math.abs(x - a) < .8*size && Math.abs(y - b) < .8*size)) continue
    taken.push([x, y])
    brush.globalAlpha = !bright.size || bright.has(i) ? 1 : .4
    brush.strokeStyle = colouring.entries[colouring.values[i]].colour
    if (cut(brush, i, (x - size/2)*ratio, (y - size/2)*ratio, size*ratio)) brush.strokeRect((x - size/2)*ratio, (y - size/2)*ratio, size*ratio, size*ratio)
  }
  brush.globalAlpha = 1
}

function names() { // of the entries of the legend, each at the picture in the middle of its own
  Object.assign(brush, {font: `600 ${14*devicePixelRatio}px system-ui, sans-serif`, textAlign: 'center', textBaseline: 'middle', lineWidth: 4*devicePixelRatio, lineJoin: 'round', strokeStyle: css('--page'), fillStyle: css('--text')})
  for (const entry of colouring.entries) {
    if (entry.middle === undefined) continue
    const [x, y] = plot.getScreenPosition(entry.middle)
    brush.strokeText(entry.name, x*devicePixelRatio, y*devicePixelRatio)
    brush.fillText(entry.name, x*devicePixelRatio, y*devicePixelRatio)
  }
}

function hover() {
  const card = document.getElementById('hover'), canvas = card.querySelector('canvas')
  card.hidden = hovered < 0
  if (hovered < 0) return
  const [x, y] = plot.getScreenPosition(hovered)
  canvas.hidden = !data.side
  if (data.side) cut(canvas.getContext('2d'), hovered, 0, 0, canvas.width)
  card.querySelector('p').textContent = describe(hovered)
  card.style.left = `${Math.min(x + 14, stage.clientWidth - card.offsetWidth - 4)}px`
  card.style.top = `${Math.min(y + 14, stage.clientHeight - card.offsetHeight - 4)}px`
}

function describe(i) {
  const said = [data.pictures[i], clusterName(state.cluster[i]), `confidence ${data.confidence[i]}`]
  return [...said, state.label[i] && `label ${state.label[i]}`, data.audit[i]].filter(Boolean).join(' · ')
}

let fingers = []
function where(event) { const box = points.getBoundingClientRect(); return [...event.touches].map(t => [t.clientX - box.left, t.clientY - box.top]) }
points.addEventListener('touchstart', event => { fingers = where(event) }, {passive: true})
points.addEventListener('touchend', event => { fingers = where(event) }, {passive: true})
points.addEventListener('touchmove', event => {
  const now = where(event), camera = plot.get('camera'), {clientWidth: w, clientHeight: h} = points
  if (now.length != fingers.length) { fingers = now; return }
  const middle = all => [0, 1].map(axis => all.reduce((sum, p) => sum + p[axis], 0)/all.length), [x, y] = middle(now), [x0, y0] = middle(fingers)
  camera.pan([2*(x - x0)/w*(w/h), -2*(y - y0)/h])
  if (now.length == 2) {
    const apart = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]), zoom = apart(now)/Math.max(1, apart(fingers))
    camera.scale([zoom, zoom], [(2*x/w - 1)*(w/h), 1 - 2*y/h])
  }
  plot.view(camera.view)
  fingers = now
}, {passive: true})

const find = id => document.getElementById(id), count = n => n == 1 ? '1 picture' : `${n.toLocaleString('en')} pictures`

function choose(what, said) { // pictures, and the number of the cluster where it is a whole one
  chosen = what
  if (plot) mark()
  const many = chosen.pictures.length, one = many == 1 && describe(chosen.pictures[0])
  say(said ?? (chosen.cluster !== undefined ? `${clusterName(chosen.cluster)}: ${count(many)}` : one || (many ? `${count(many)} chosen` : welcome())))
  for (const [key, action] of Object.entries(actions)) find(`do-${key}`).disabled = !action.fits(chosen)
  const canvas = find('chosen'), columns = 8, size = canvas.width/columns, first = data.side ? chosen.pictures.slice(0, 120) : []
  canvas.height = Math.ceil(first.length/columns)*size
  first.forEach((i, k) => cut(canvas.getContext('2d'), i, size*(k % columns), size*Math.floor(k/columns), size))
}

function say(text) { find('said').textContent = text }
function welcome() {
  const drawn = data.all > n ? `${count(n)} of ${data.all.toLocaleString('en')}, drawn at random. ` : ''
  return drawn + (matchMedia('(max-width: 700px)').matches ? 'Touch a picture, or choose a line below.' : 'Click a picture, hold Shift and draw around many, or choose a line below.')
}

function legend() {
  const counts = colouring.entries.map(() => 0)
  for (const value of colouring.values) counts[value]++
  const sorted = [...colouring.entries.entries()].sort(([i, a], [j, b]) => !!b.named - !!a.named || (a.named ? a.name.localeCompare(b.name, 'en', {numeric: true}) : i - j))
  find('legend').replaceChildren(...sorted.map(([value, entry]) => {
    const line = document.createElement('button'), swatch = document.createElement('i'), number = document.createElement('b')
    line.dataset.name = entry.name
    swatch.style.background = entry.colour
    number.textContent = counts[value].toLocaleString('en')
    line.append(swatch, entry.name + (state.split.has(entry.k) ? ' (to be split)' : ''), number)
    line.hidden = !counts[value]
    line.onclick = () => choose({pictures: colouring.values.flatMap((v, i) => v == value ? [i] : []), cluster: entry.k},
                                entry.k === undefined && `${entry.name}: ${count(counts[value])}` || undefined)
    return line
  }))
}

function ask(question, options) { // the answer, or nothing
  const dialog = find('ask'), field = find(options ? 'answer-list' : 'answer')
  find('question').textContent = question
  find('answer').hidden = !!options; find('answer-list').hidden = !options
  find('answer').required = !options
  if (options) field.replaceChildren(...options.map(([value, text]) => new Option(text, value)))
  else { field.value = ''; find('known').replaceChildren(...[...new Set([...state.names, ...state.label])].filter(Boolean).map(name => new Option(name))) }
  dialog.returnValue = ''
  dialog.showModal()
  field.focus()
  return new Promise(done => dialog.onclose = () => done(dialog.returnValue == 'ok' && field.value.trim()))
}

const others = not => state.names.flatMap((_, k) => k == not || state.gone.has(k) ? [] : [[String(k), clusterName(k)]])
const isCluster = what => what.cluster !== undefined, arePictures = what => what.pictures.length > 0
const each = (action, value) => chosen.pictures.map(i => [data.pictures[i], action, value])

const actions = {
  n: {name: 'Name', fits: arePictures, async rows() {
    const name = await ask(isCluster(chosen) ? `Name of ${clusterName(chosen.cluster)}` : `Name of the ${count(chosen.pictures.length)}`)
    return name && (isCluster(chosen) ? [[`cluster:${chosen.cluster}`, 'name', name]] : each('label', name)) }},
  m: {name: 'Merge', fits: what => isCluster(what) && others(what.cluster).length, async rows() {
    const to = await ask(`Merge ${clusterName(chosen.cluster)} into`, others(chosen.cluster))
    return to && [[`cluster:${chosen.cluster}`, 'merge', `cluster:${to}`]] }},
  s: {name: 'Split', fits: isCluster, rows: () => [[`cluster:${chosen.cluster}`, 'split', '2']]},
  v: {name: 'Move', fits: arePictures, async rows() {
    const to = await ask(`Move ${count(chosen.pictures.length)} to`, others(chosen.cluster))
    return to && each('move', to) }},
  o: {name: 'Belongs to none', fits: arePictures, rows: () => each('stranger', '')},
}

const shelf = `sphere_mnist map ${data.id}`
function keep() { try { localStorage.setItem(shelf, JSON.stringify(steps)) } catch { say('This browser keeps nothing: save before you close the page.') } }
function kept() { try { return JSON.parse(localStorage.getItem(shelf)) ?? [] } catch { return [] } }

function show() { // after the steps have changed
  state = replay(steps.flat())
  find('undo').disabled = find('save').disabled = !steps.length
  return paint()
}

async function act(key) {
  const action = actions[key]
  if (!action.fits(chosen)) return say(arePictures(chosen) ? 'Choose a whole cluster in the list first.' : 'Choose pictures first.')
  const rows = await action.rows()
  if (!rows) return
  steps.push(rows); keep(); show()
  choose(chosen.cluster !== undefined && state.gone.has(chosen.cluster) ? {pictures: []} : chosen, `${action.name}: ${rows.length == 1 ? rows[0].filter(Boolean).join(', ') : count(rows.length)}. U takes it back.`)
}

function undo() {
  const rows = steps.pop()
  if (!rows) return
  keep(); show()
  choose({pictures: rows.flatMap(([what]) => position.get(what) ?? [])}, `Taken back: ${rows[0][1]} of ${rows.length == 1 ? rows[0][0] : count(rows.length)}.`)
}

function save() {
  const link = document.createElement('a'), rows = steps.flat()
  link.href = URL.createObjectURL(new Blob([toCSV(rows)], {type: 'text/csv'}))
  link.download = 'corrections.csv'
  link.click()
  URL.revokeObjectURL(link.href)
  say(`corrections.csv is saved. Next: sphere_mnist correct RUN corrections.csv`)
}

async function open(file) {
  try { steps.push(fromCSV(await file.text())) }
  catch (error) { return say(`${file.name} cannot be read: ${error.message}.`) }
  keep(); show()
  say(`${file.name} is applied.` + (state.ignored ? ` ${state.ignored} of its rows are of pictures or clusters that are not on this map; they are kept.` : ''))
}

find('colour').onchange = paint
find('search').oninput = event => {
  const wanted = event.target.value.toLowerCase()
  choose({pictures: wanted ? data.pictures.flatMap((name, i) => name.toLowerCase().includes(wanted) ? [i] : []) : []},
         wanted ? undefined : welcome())
}
find('search').onkeydown = event => { if (event.key == 'Enter' && chosen.pictures.length) plot.zoomToPoints(chosen.pictures, {padding: .3, transition: true}) }
find('lasso').onclick = () => {
  const on = find('lasso').ariaPressed != 'true'
  find('lasso').ariaPressed = String(on)
  plot.set({mouseMode: on ? 'lasso' : 'panZoom'})
}
find('home').onclick = () => plot.zoomToOrigin({transition: true})
find('undo').onclick = undo
find('save').onclick = save
find('answer-list').onkeydown = event => { if (event.key == 'Enter') { event.preventDefault(); find('ask').close('ok') } }
find('open').onchange = event => { if (event.target.files[0]) open(event.target.files[0]); event.target.value = '' }
for (const key of Object.keys(actions)) find(`do-${key}`).onclick = () => act(key)
document.addEventListener('keydown', event => {
  const key = event.key.toLowerCase(), ctrl = event.ctrlKey || event.metaKey
  if (event.altKey || find('ask').open || event.target.matches('input, select')) return
  if (key == 'u' && !ctrl || key == 'z' && ctrl) undo()
  else if (key == 's' && ctrl) save()
  else if (key == 'escape') choose({pictures: []})
  else if (key == 'l' && !ctrl) find('lasso').click()
  else if (key == '/') find('search').focus()
  else if (actions[key] && !ctrl) act(key)
  else return
  event.preventDefault()
})
if (!data.audit.length) find('colour').querySelector('[value=audit]').remove()
steps = kept()
state = replay(steps.flat())
try { start() }
catch (error) { say(`This browser draws no map (${error.message}): allow WebGL, or use another.`) }
if (plot) show().then(() => choose({pictures: []}, steps.length ? `${steps.flat().length} corrections of last time are restored; U takes them back.` : undefined))
