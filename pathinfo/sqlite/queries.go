package sqlite

// Many paths are given to a query as one JSON array: one statement in place of
// thousands. The key of json_each is the index in the array.

const (
	// infoColumns are those that scanInfo reads.
	infoColumns = `
		p.path, p.root, p.nar_hash, p.nar_size, p.deriver, p.ca, p.signatures,
		p.ultimate, p.registered,
		(SELECT group_concat(t.path, ' ')
		 FROM refs JOIN paths AS t ON t.id = refs.reference
		 WHERE refs.referrer = p.id)`

	queryInfo = `SELECT` + infoColumns + ` FROM paths AS p WHERE p.path = ?`

	queryInfos = `
		SELECT j.key,` + infoColumns + `
		FROM json_each(?) AS j CROSS JOIN paths AS p ON p.path = j.value`

	// The bounds are "<hash>-" and "<hash>.", as '.' follows '-'.
	queryInfoByHash = `SELECT` + infoColumns + ` FROM paths AS p WHERE p.path >= ? AND p.path < ? LIMIT 1`

	queryInfosAfter = `SELECT` + infoColumns + ` FROM paths AS p WHERE p.path > ? ORDER BY p.path LIMIT ?`

	queryRoot = `SELECT root FROM paths WHERE path = ?`

	queryRootsAfter = `SELECT id, root FROM paths WHERE id > ? ORDER BY id LIMIT ?`

	queryIsValid = `SELECT EXISTS (SELECT 1 FROM paths WHERE path = ?)`

	queryValid = `
		SELECT j.key FROM json_each(?) AS j
		WHERE EXISTS (SELECT 1 FROM paths WHERE path = j.value)`

	queryPaths = `SELECT path FROM paths ORDER BY path`

	queryID = `SELECT id FROM paths WHERE path = ?`
)

// Relations.
const (
	queryReferences = `
		SELECT j.key, t.path
		FROM json_each(?) AS j
		CROSS JOIN paths AS p ON p.path = j.value
		CROSS JOIN refs ON refs.referrer = p.id
		CROSS JOIN paths AS t ON t.id = refs.reference`

	queryReferrers = `
		SELECT f.path
		FROM paths AS p
		JOIN refs ON refs.reference = p.id
		JOIN paths AS f ON f.id = refs.referrer
		WHERE p.path = ?`

	queryClosure = `
		WITH RECURSIVE closure (id) AS (
			SELECT p.id FROM json_each(?) AS j CROSS JOIN paths AS p ON p.path = j.value
			UNION
			SELECT refs.reference FROM closure CROSS JOIN refs ON refs.referrer = closure.id
		)
		SELECT p.path FROM closure CROSS JOIN paths AS p ON p.id = closure.id`

	queryReverseClosure = `
		WITH RECURSIVE closure (id) AS (
			SELECT p.id FROM json_each(?) AS j CROSS JOIN paths AS p ON p.path = j.value
			UNION
			SELECT refs.referrer FROM closure CROSS JOIN refs ON refs.reference = closure.id
		)
		SELECT p.path FROM closure CROSS JOIN paths AS p ON p.id = closure.id`

	queryDerivers = `
		SELECT p.path FROM drv_outputs AS o JOIN paths AS p ON p.id = o.drv
		WHERE o.output = ?`

	queryDrvOutputs = `SELECT name, output FROM drv_outputs WHERE drv = ?`

	queryGraphPaths = `SELECT id, path, deriver, nar_size, registered, last_use FROM paths ORDER BY path`

	// One row a path, not one a reference: crossing into SQLite is what costs.
	queryGraphRefs = `SELECT referrer, group_concat(reference) FROM refs GROUP BY referrer`

	queryGraphOutputs = `SELECT drv, output FROM drv_outputs`
)

// Registration.
const (
	queryExisting = `
		SELECT j.value, p.id, p.deriver, p.ca, p.signatures, p.ultimate
		FROM json_each(?) AS j CROSS JOIN paths AS p ON p.path = j.value`

	insertPath = `
		INSERT INTO paths (path, root, nar_hash, nar_size, deriver, ca, signatures,
			ultimate, registered, last_use)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)`

	updateMerged = `UPDATE paths SET deriver = ?, ca = ?, signatures = ?, ultimate = ? WHERE id = ?`

	updateReplaced = `
		UPDATE paths SET root = ?, nar_hash = ?, nar_size = ?, deriver = ?, ca = ?,
			signatures = ?, ultimate = ?
		WHERE id = ?`

	insertRefs = `INSERT OR IGNORE INTO refs (referrer, reference) SELECT ?, value FROM json_each(?)`

	deleteRefsOf = `DELETE FROM refs WHERE referrer = ?`

	// queryCycle finds a path that ?1 reaches and that refers to ?1.
	queryCycle = `
		WITH RECURSIVE reach (id) AS (
			SELECT reference FROM refs WHERE referrer = ?1 AND reference <> ?1
			UNION
			SELECT refs.reference FROM reach
			JOIN refs ON refs.referrer = reach.id
			WHERE reach.id <> ?1
		)
		SELECT p.path FROM reach
		JOIN refs ON refs.referrer = reach.id AND refs.reference = ?1
		JOIN paths AS p ON p.id = reach.id
		WHERE reach.id <> ?1
		LIMIT 1`

	insertDrvOutput = `INSERT INTO drv_outputs (drv, name, output) VALUES (?, ?, ?)`

	deleteDrvOutputs = `DELETE FROM drv_outputs WHERE drv = ?`

	querySignatures = `SELECT id, signatures FROM paths WHERE path = ?`

	updateSignatures = `UPDATE paths SET signatures = ? WHERE id = ?`

	updateLastUse = `
		UPDATE paths SET last_use = ?1
		WHERE last_use < ?1 AND path IN (SELECT value FROM json_each(?2))`
)

// Deletion. ?1 is a JSON array of ids.
const (
	queryIDs = `
		SELECT p.id FROM json_each(?) AS j CROSS JOIN paths AS p ON p.path = j.value`

	deleteRefs = `DELETE FROM refs WHERE referrer IN (SELECT value FROM json_each(?1))`

	// queryInUse finds what still refers to one of the paths.
	queryInUse = `
		SELECT p.path, f.path
		FROM json_each(?1) AS j
		CROSS JOIN refs ON refs.reference = j.value
		JOIN paths AS p ON p.id = refs.reference
		JOIN paths AS f ON f.id = refs.referrer
		LIMIT 1`

	deleteOutputs = `DELETE FROM drv_outputs WHERE drv IN (SELECT value FROM json_each(?1))`

	queryHasRealisations = `SELECT EXISTS (SELECT 1 FROM realisations)`

	deleteRealisationRefs = `
		WITH doomed AS (
			SELECT id FROM realisations WHERE path IN (SELECT value FROM json_each(?1))
		)
		DELETE FROM realisation_refs
		WHERE referrer IN (SELECT id FROM doomed) OR reference IN (SELECT id FROM doomed)`

	deleteRealisations = `DELETE FROM realisations WHERE path IN (SELECT value FROM json_each(?1))`

	deletePaths = `DELETE FROM paths WHERE id IN (SELECT value FROM json_each(?1))`
)

// Realisations.
const (
	queryRealisation = `
		SELECT r.id, p.path, r.signatures
		FROM realisations AS r JOIN paths AS p ON p.id = r.path
		WHERE r.drv_output = ?`

	queryRealisationRefs = `
		SELECT d.drv_output, p.path
		FROM realisation_refs AS x
		JOIN realisations AS d ON d.id = x.reference
		JOIN paths AS p ON p.id = d.path
		WHERE x.referrer = ?`

	insertRealisation = `INSERT INTO realisations (drv_output, path, signatures) VALUES (?, ?, ?)`

	updateRealisationSignatures = `UPDATE realisations SET signatures = ? WHERE id = ?`

	insertRealisationRef = `INSERT OR IGNORE INTO realisation_refs (referrer, reference) VALUES (?, ?)`
)
