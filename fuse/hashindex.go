package fuse

// hashIndex finds numbers by their hash: a table with open addressing and linear
// probing, which shrinks when it has become empty. A Go map would take three
// times the memory and never give it back.
type hashIndex struct {
	cells []hashCell // a power of two
	used  int
}

// hashCell is empty when slotPlus1 is 0.
type hashCell struct {
	hash, slotPlus1 uint32
}

const (
	noSlot        = ^uint32(0)
	minIndexCells = 16
)

// find returns the slot with this hash that is the one looked for.
func (x *hashIndex) find(hash uint32, is func(slot uint32) bool) (slot uint32, ok bool) {
	if x.used == 0 {
		return noSlot, false
	}
	mask := uint32(len(x.cells) - 1)
	for i := hash & mask; x.cells[i].slotPlus1 != 0; i = (i + 1) & mask {
		c := x.cells[i]
		if c.hash == hash && is(c.slotPlus1-1) {
			return c.slotPlus1 - 1, true
		}
	}
	return noSlot, false
}

// insert adds a slot that is not there.
func (x *hashIndex) insert(hash, slot uint32) {
	if (x.used+1)*4 > len(x.cells)*3 {
		x.resize(max(minIndexCells, len(x.cells)*2))
	}
	x.put(hashCell{hash, slot + 1})
	x.used++
}

// remove takes a slot out that is there.
func (x *hashIndex) remove(hash, slot uint32) {
	mask := uint32(len(x.cells) - 1)
	hole := hash & mask
	for x.cells[hole].slotPlus1 != slot+1 {
		hole = (hole + 1) & mask
	}
	// Close the hole: pull every following cell back that may stand there.
	for i := (hole + 1) & mask; x.cells[i].slotPlus1 != 0; i = (i + 1) & mask {
		home := x.cells[i].hash & mask
		if (i-home)&mask >= (i-hole)&mask {
			x.cells[hole] = x.cells[i]
			hole = i
		}
	}
	x.cells[hole] = hashCell{}
	x.used--
	if len(x.cells) > minIndexCells && x.used*8 < len(x.cells) {
		x.resize(len(x.cells) / 2)
	}
}

func (x *hashIndex) resize(n int) {
	old := x.cells
	x.cells = make([]hashCell, n)
	for _, c := range old {
		if c.slotPlus1 != 0 {
			x.put(c)
		}
	}
}

func (x *hashIndex) put(c hashCell) {
	mask := uint32(len(x.cells) - 1)
	i := c.hash & mask
	for x.cells[i].slotPlus1 != 0 {
		i = (i + 1) & mask
	}
	x.cells[i] = c
}
