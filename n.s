	.arch armv8-a
	.file	"qc_gemm_f32_neon.c"
	.text
	.align	2
	.p2align 4,,11
	.global	qc_gemm_f32_neon
	.type	qc_gemm_f32_neon, %function
qc_gemm_f32_neon:
.LFB4371:
	.cfi_startproc
	sub	sp, sp, #528
	.cfi_def_cfa_offset 528
	stp	x29, x30, [sp]
	.cfi_offset 29, -528
	.cfi_offset 30, -520
	mov	x29, sp
	stp	x21, x22, [sp, 32]
	.cfi_offset 21, -496
	.cfi_offset 22, -488
	ldr	x22, [x0, 48]
	str	x2, [sp, 224]
	cbz	x22, .L1
	stp	x27, x28, [sp, 80]
	.cfi_offset 28, -440
	.cfi_offset 27, -448
	mov	x27, x0
	add	x0, x1, 4
	mov	x12, 0
	mov	x21, 0
	mov	x3, x12
	stp	x23, x24, [sp, 48]
	.cfi_offset 24, -472
	.cfi_offset 23, -480
	add	x23, sp, 512
	mov	x24, x22
	stp	x25, x26, [sp, 64]
	.cfi_offset 26, -456
	.cfi_offset 25, -464
	mov	x26, x27
	mov	x27, x21
	str	x0, [sp, 232]
	mov	x0, 8
	stp	x19, x20, [sp, 16]
	.cfi_offset 20, -504
	.cfi_offset 19, -512
	str	x0, [sp, 152]
	mov	x0, 12
	str	x0, [sp, 144]
	str	x1, [sp, 496]
	stp	d8, d9, [sp, 96]
	.cfi_offset 73, -424
	.cfi_offset 72, -432
	stp	d10, d11, [sp, 112]
	.cfi_offset 75, -408
	.cfi_offset 74, -416
.L3:
	lsl	x0, x27, 2
	ldr	x1, [sp, 232]
	str	x0, [sp, 320]
	ldr	x0, [sp, 224]
	mov	x25, x27
	add	x27, x27, 16
	cmp	x0, x1
	bcc	.L131
	mov	x0, -4
	sub	x0, x0, x25
	str	x0, [sp, 208]
	add	x0, x3, 16
	str	x0, [sp, 328]
	add	x0, x3, 32
	add	x20, x25, 12
	str	x0, [sp, 336]
	add	x0, x3, 48
	str	x0, [sp, 344]
	mov	x0, x20
	mov	x20, x26
	ldr	x2, [sp, 320]
	mov	x28, x1
	ldp	x16, x9, [x20, 56]
	mov	x26, x0
	ldr	x1, [x20, 40]
	add	x19, x25, 4
	ldr	x0, [x20, 72]
	str	x19, [sp, 136]
	mul	x8, x16, x9
	str	x3, [sp, 240]
	add	x21, x25, 8
	mov	x19, x27
	sub	x18, x28, #4
	mov	x27, x24
	mov	x24, x21
	madd	x8, x8, x2, x1
	cbz	x0, .L106
.L149:
	ldr	x1, [sp, 240]
	ldr	q11, [x0, x1]
	ldr	x1, [sp, 328]
	ldr	q22, [x0, x1]
	ldr	x1, [sp, 336]
	ldr	q20, [x0, x1]
	ldr	x1, [sp, 344]
	ldr	q21, [x0, x1]
.L4:
	sub	x3, x28, #2
	ldp	x11, x0, [x20]
	sub	x21, x28, #3
	sub	x22, x28, #1
	str	x3, [sp, 160]
	ldp	x10, x7, [x20, 16]
	udiv	x4, x18, x0
	udiv	x1, x3, x0
	udiv	x2, x21, x0
	msub	x15, x4, x0, x18
	udiv	x6, x22, x0
	msub	x12, x1, x0, x3
	msub	x14, x2, x0, x21
	mul	x15, x15, x10
	msub	x0, x6, x0, x22
	madd	x4, x4, x7, x15
	mul	x14, x14, x10
	mul	x12, x12, x10
	lsl	x13, x4, 2
	mul	x4, x0, x10
	madd	x2, x2, x7, x14
	add	x3, x11, x13
	madd	x1, x1, x7, x12
	str	x3, [sp, 256]
	madd	x0, x6, x7, x4
	lsl	x30, x2, 2
	lsl	x1, x1, 2
	add	x2, x11, x30
	lsl	x0, x0, 2
	str	x1, [sp, 176]
	add	x1, x11, x1
	str	x0, [sp, 192]
	add	x0, x11, x0
	str	x2, [sp, 272]
	str	x1, [sp, 288]
	str	x0, [sp, 304]
	cbz	x16, .L107
	sub	x1, x9, #4
	mov	x10, 0
	ldr	x15, [x20, 32]
	lsr	x0, x1, 2
	add	x0, x0, 1
	and	x1, x1, -4
	mov	v8.16b, v21.16b
	add	x5, x1, 4
	mov	v9.16b, v20.16b
	lsl	x7, x0, 4
	mov	v10.16b, v22.16b
	lsl	x3, x0, 8
	mov	v27.16b, v11.16b
	str	x25, [sp, 352]
	mov	v28.16b, v21.16b
	str	x19, [sp, 368]
	mov	v29.16b, v20.16b
	mov	v30.16b, v22.16b
	mov	v31.16b, v11.16b
	mov	v23.16b, v21.16b
	mov	v24.16b, v20.16b
	mov	v25.16b, v22.16b
	mov	v26.16b, v11.16b
.L12:
	cbz	x15, .L108
	ldrsw	x0, [x15, x10, lsl 2]
	ldr	x1, [sp, 176]
	ldr	x6, [sp, 192]
	lsl	x0, x0, 2
	add	x4, x13, x0
	add	x2, x30, x0
	add	x1, x1, x0
	add	x0, x6, x0
	add	x4, x11, x4
	add	x2, x11, x2
	add	x1, x11, x1
	add	x0, x11, x0
.L6:
	mov	x12, x8
	mov	x6, 0
	cmp	x9, 3
	bls	.L10
	.p2align 3,,7
.L7:
	mov	x14, x12
	add	x17, x12, 128
	ldr	q7, [x4, x6]
	ldr	q6, [x2, x6]
	ldr	q5, [x1, x6]
	ldr	q4, [x0, x6]
	add	x6, x6, 16
	ld1	{v16.4s - v19.4s}, [x14], 64
	ld1	{v0.4s - v3.4s}, [x14]
	add	x14, x12, 192
	fmla	v11.4s, v16.4s, v7.s[0]
	add	x12, x12, 256
	fmla	v22.4s, v17.4s, v7.s[0]
	fmla	v20.4s, v18.4s, v7.s[0]
	fmla	v21.4s, v19.4s, v7.s[0]
	fmla	v26.4s, v16.4s, v6.s[0]
	fmla	v25.4s, v17.4s, v6.s[0]
	fmla	v24.4s, v18.4s, v6.s[0]
	fmla	v23.4s, v19.4s, v6.s[0]
	fmla	v31.4s, v16.4s, v5.s[0]
	fmla	v30.4s, v17.4s, v5.s[0]
	fmla	v29.4s, v18.4s, v5.s[0]
	fmla	v28.4s, v19.4s, v5.s[0]
	fmla	v27.4s, v16.4s, v4.s[0]
	fmla	v10.4s, v17.4s, v4.s[0]
	fmla	v9.4s, v18.4s, v4.s[0]
	fmla	v8.4s, v19.4s, v4.s[0]
	fmla	v11.4s, v0.4s, v7.s[1]
	ld1	{v16.4s - v19.4s}, [x17]
	fmla	v22.4s, v1.4s, v7.s[1]
	fmla	v20.4s, v2.4s, v7.s[1]
	fmla	v21.4s, v3.4s, v7.s[1]
	fmla	v26.4s, v0.4s, v6.s[1]
	fmla	v25.4s, v1.4s, v6.s[1]
	fmla	v24.4s, v2.4s, v6.s[1]
	fmla	v23.4s, v3.4s, v6.s[1]
	fmla	v31.4s, v0.4s, v5.s[1]
	fmla	v30.4s, v1.4s, v5.s[1]
	fmla	v29.4s, v2.4s, v5.s[1]
	fmla	v28.4s, v3.4s, v5.s[1]
	fmla	v27.4s, v0.4s, v4.s[1]
	fmla	v10.4s, v1.4s, v4.s[1]
	fmla	v9.4s, v2.4s, v4.s[1]
	fmla	v8.4s, v3.4s, v4.s[1]
	fmla	v11.4s, v16.4s, v7.s[2]
	ld1	{v0.4s - v3.4s}, [x14]
	fmla	v22.4s, v17.4s, v7.s[2]
	fmla	v20.4s, v18.4s, v7.s[2]
	fmla	v21.4s, v19.4s, v7.s[2]
	fmla	v26.4s, v16.4s, v6.s[2]
	fmla	v25.4s, v17.4s, v6.s[2]
	fmla	v24.4s, v18.4s, v6.s[2]
	fmla	v23.4s, v19.4s, v6.s[2]
	fmla	v31.4s, v16.4s, v5.s[2]
	fmla	v30.4s, v17.4s, v5.s[2]
	fmla	v29.4s, v18.4s, v5.s[2]
	fmla	v28.4s, v19.4s, v5.s[2]
	fmla	v27.4s, v16.4s, v4.s[2]
	fmla	v10.4s, v17.4s, v4.s[2]
	fmla	v9.4s, v18.4s, v4.s[2]
	fmla	v8.4s, v19.4s, v4.s[2]
	fmla	v11.4s, v0.4s, v7.s[3]
	fmla	v22.4s, v1.4s, v7.s[3]
	fmla	v20.4s, v2.4s, v7.s[3]
	fmla	v21.4s, v3.4s, v7.s[3]
	fmla	v26.4s, v0.4s, v6.s[3]
	fmla	v25.4s, v1.4s, v6.s[3]
	fmla	v24.4s, v2.4s, v6.s[3]
	fmla	v23.4s, v3.4s, v6.s[3]
	fmla	v31.4s, v0.4s, v5.s[3]
	fmla	v30.4s, v1.4s, v5.s[3]
	fmla	v29.4s, v2.4s, v5.s[3]
	fmla	v28.4s, v3.4s, v5.s[3]
	fmla	v27.4s, v0.4s, v4.s[3]
	fmla	v10.4s, v1.4s, v4.s[3]
	fmla	v9.4s, v2.4s, v4.s[3]
	fmla	v8.4s, v3.4s, v4.s[3]
	cmp	x6, x7
	bne	.L7
	add	x8, x8, x3
	mov	x6, x5
.L10:
	cmp	x9, x6
	bls	.L9
	mov	x17, x8
	ldr	s7, [x4, x6, lsl 2]
	ldr	s6, [x2, x6, lsl 2]
	add	x14, x6, 1
	ldr	s5, [x1, x6, lsl 2]
	lsl	x12, x6, 2
	ld1	{v0.4s - v3.4s}, [x17], 64
	ldr	s4, [x0, x6, lsl 2]
	fmla	v11.4s, v0.4s, v7.s[0]
	fmla	v22.4s, v1.4s, v7.s[0]
	fmla	v20.4s, v2.4s, v7.s[0]
	fmla	v21.4s, v3.4s, v7.s[0]
	fmla	v26.4s, v0.4s, v6.s[0]
	fmla	v25.4s, v1.4s, v6.s[0]
	fmla	v24.4s, v2.4s, v6.s[0]
	fmla	v23.4s, v3.4s, v6.s[0]
	fmla	v31.4s, v0.4s, v5.s[0]
	fmla	v30.4s, v1.4s, v5.s[0]
	fmla	v29.4s, v2.4s, v5.s[0]
	fmla	v28.4s, v3.4s, v5.s[0]
	fmla	v27.4s, v0.4s, v4.s[0]
	fmla	v10.4s, v1.4s, v4.s[0]
	fmla	v9.4s, v2.4s, v4.s[0]
	fmla	v8.4s, v3.4s, v4.s[0]
	cmp	x9, x14
	bls	.L11
	add	x14, x12, 4
	add	x19, x6, 2
	ld1	{v0.4s - v3.4s}, [x17]
	ldr	s7, [x4, x14]
	ldr	s6, [x2, x14]
	ldr	s5, [x1, x14]
	fmla	v11.4s, v0.4s, v7.s[0]
	ldr	s4, [x0, x14]
	fmla	v22.4s, v1.4s, v7.s[0]
	fmla	v20.4s, v2.4s, v7.s[0]
	fmla	v21.4s, v3.4s, v7.s[0]
	fmla	v26.4s, v0.4s, v6.s[0]
	fmla	v25.4s, v1.4s, v6.s[0]
	fmla	v24.4s, v2.4s, v6.s[0]
	fmla	v23.4s, v3.4s, v6.s[0]
	fmla	v31.4s, v0.4s, v5.s[0]
	fmla	v30.4s, v1.4s, v5.s[0]
	fmla	v29.4s, v2.4s, v5.s[0]
	fmla	v28.4s, v3.4s, v5.s[0]
	fmla	v27.4s, v0.4s, v4.s[0]
	fmla	v10.4s, v1.4s, v4.s[0]
	fmla	v9.4s, v2.4s, v4.s[0]
	fmla	v8.4s, v3.4s, v4.s[0]
	cmp	x9, x19
	bls	.L11
	add	x19, x8, 128
	add	x14, x12, 8
	add	x17, x6, 3
	add	x25, x8, 192
	ld1	{v0.4s - v3.4s}, [x19]
	ldr	s7, [x4, x14]
	ldr	s6, [x2, x14]
	ldr	s5, [x1, x14]
	fmla	v11.4s, v0.4s, v7.s[0]
	ldr	s4, [x0, x14]
	fmla	v22.4s, v1.4s, v7.s[0]
	fmla	v20.4s, v2.4s, v7.s[0]
	fmla	v21.4s, v3.4s, v7.s[0]
	fmla	v26.4s, v0.4s, v6.s[0]
	fmla	v25.4s, v1.4s, v6.s[0]
	fmla	v24.4s, v2.4s, v6.s[0]
	fmla	v23.4s, v3.4s, v6.s[0]
	fmla	v31.4s, v0.4s, v5.s[0]
	fmla	v30.4s, v1.4s, v5.s[0]
	fmla	v29.4s, v2.4s, v5.s[0]
	fmla	v28.4s, v3.4s, v5.s[0]
	fmla	v27.4s, v0.4s, v4.s[0]
	fmla	v10.4s, v1.4s, v4.s[0]
	fmla	v9.4s, v2.4s, v4.s[0]
	fmla	v8.4s, v3.4s, v4.s[0]
	cmp	x9, x17
	bls	.L11
	add	x12, x12, 12
	ld1	{v0.4s - v3.4s}, [x25]
	ldr	s7, [x4, x12]
	ldr	s6, [x2, x12]
	ldr	s5, [x1, x12]
	fmla	v11.4s, v0.4s, v7.s[0]
	ldr	s4, [x0, x12]
	fmla	v22.4s, v1.4s, v7.s[0]
	fmla	v20.4s, v2.4s, v7.s[0]
	fmla	v21.4s, v3.4s, v7.s[0]
	fmla	v26.4s, v0.4s, v6.s[0]
	fmla	v25.4s, v1.4s, v6.s[0]
	fmla	v24.4s, v2.4s, v6.s[0]
	fmla	v23.4s, v3.4s, v6.s[0]
	fmla	v31.4s, v0.4s, v5.s[0]
	fmla	v30.4s, v1.4s, v5.s[0]
	fmla	v29.4s, v2.4s, v5.s[0]
	fmla	v28.4s, v3.4s, v5.s[0]
	fmla	v27.4s, v0.4s, v4.s[0]
	fmla	v10.4s, v1.4s, v4.s[0]
	fmla	v9.4s, v2.4s, v4.s[0]
	fmla	v8.4s, v3.4s, v4.s[0]
.L11:
	sub	x6, x9, x6
	add	x8, x8, x6, lsl 6
.L9:
	add	x10, x10, 1
	cmp	x16, x10
	bne	.L12
	ldr	x25, [sp, 352]
	ldr	x19, [sp, 368]
.L5:
	cmp	x27, x25
	bhi	.L132
.L14:
	ldr	x0, [sp, 136]
	cmp	x27, x0
	bhi	.L133
.L18:
	cmp	x27, x24
	bhi	.L134
.L22:
	cmp	x27, x26
	bhi	.L135
.L26:
	cmp	x27, x25
	bhi	.L136
.L30:
	ldr	x0, [sp, 136]
	cmp	x0, x27
	bcc	.L137
.L34:
	cmp	x24, x27
	bcc	.L138
.L38:
	cmp	x26, x27
	bcc	.L139
.L42:
	cmp	x25, x27
	bcc	.L140
.L46:
	ldr	x0, [sp, 136]
	cmp	x27, x0
	bhi	.L141
.L50:
	cmp	x24, x27
	bcc	.L142
.L54:
	cmp	x26, x27
	bcc	.L143
.L58:
	cmp	x27, x25
	bhi	.L144
.L62:
	ldr	x0, [sp, 136]
	cmp	x27, x0
	bhi	.L145
.L66:
	cmp	x24, x27
	bcc	.L146
.L70:
	cmp	x26, x27
	bcc	.L147
.L74:
	ldr	x1, [sp, 224]
	add	x0, x28, 4
	cmp	x1, x0
	bcc	.L148
.L110:
	ldp	x16, x9, [x20, 56]
	mov	x28, x0
	ldr	x1, [x20, 40]
	sub	x18, x28, #4
	ldr	x0, [x20, 72]
	ldr	x2, [sp, 320]
	mul	x8, x16, x9
	madd	x8, x8, x2, x1
	cbnz	x0, .L149
.L106:
	movi	v20.4s, 0
	mov	v22.16b, v20.16b
	mov	v11.16b, v20.16b
	mov	v21.16b, v20.16b
	b	.L4
.L108:
	ldr	x4, [sp, 256]
	ldr	x2, [sp, 272]
	ldr	x1, [sp, 288]
	ldr	x0, [sp, 304]
	b	.L6
.L147:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x0, [x20, 80]
	dup	v1.4s, v1.s[0]
	ldr	x1, [sp, 144]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v8.4s
	madd	x1, x22, x0, x1
	bsl	v0.16b, v1.16b, v8.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x19, x27
	bls	.L150
	sub	x1, x27, x25
	str	q0, [sp, 512]
	sub	x2, x1, #12
	mov	x1, x23
	lsl	x2, x2, 2
	bl	memcpy
	ldr	x1, [sp, 224]
	add	x0, x28, 4
	cmp	x1, x0
	bcs	.L110
.L148:
	ldr	x3, [sp, 240]
	mov	x24, x27
	mov	x26, x20
	mov	x27, x19
	mov	x0, x1
.L105:
	cmp	x0, x28
	bls	.L78
	add	x0, x3, 16
	add	x20, x25, 12
	str	x0, [sp, 160]
	add	x0, x3, 32
	str	x0, [sp, 176]
	mov	x0, x20
	add	x19, x25, 4
	add	x21, x25, 8
	mov	x20, x25
	add	x22, x3, 48
	mov	x25, x24
	mov	x24, x0
	str	x3, [sp, 136]
.L103:
	ldp	x11, x6, [x26, 56]
	ldr	x1, [x26, 40]
	ldr	x0, [x26, 72]
	ldr	x2, [sp, 320]
	mul	x4, x11, x6
	madd	x4, x4, x2, x1
	cbz	x0, .L111
	ldr	x1, [sp, 136]
	ldr	q4, [x0, x22]
	ldr	q3, [x0, x1]
	ldr	x1, [sp, 160]
	ldr	q2, [x0, x1]
	ldr	x1, [sp, 176]
	ldr	q1, [x0, x1]
.L79:
	ldp	x14, x0, [x26]
	ldp	x2, x1, [x26, 16]
	udiv	x10, x28, x0
	msub	x0, x10, x0, x28
	mul	x0, x0, x2
	madd	x10, x10, x1, x0
	add	x15, x14, x10, lsl 2
	cbz	x11, .L80
	sub	x0, x6, #4
	mov	x9, 0
	ldr	x12, [x26, 32]
	lsr	x8, x0, 2
	add	x8, x8, 1
	and	x0, x0, -4
	add	x7, x0, 4
	lsl	x13, x8, 8
	lsl	x8, x8, 4
.L86:
	mov	x2, x15
	cbz	x12, .L81
	ldrsw	x2, [x12, x9, lsl 2]
	add	x2, x2, x10
	add	x2, x14, x2, lsl 2
.L81:
	cmp	x6, 3
	bls	.L113
	mov	x3, x2
	add	x5, x8, x2
	mov	x0, x4
	.p2align 3,,7
.L83:
	mov	x16, x0
	add	x1, x0, 128
	ldr	q0, [x3], 16
	ld1	{v8.4s - v11.4s}, [x16], 64
	ld1	{v16.4s - v19.4s}, [x1]
	add	x1, x0, 192
	ld1	{v20.4s - v23.4s}, [x16]
	add	x0, x0, 256
	fmla	v3.4s, v8.4s, v0.s[0]
	fmla	v2.4s, v9.4s, v0.s[0]
	fmla	v1.4s, v10.4s, v0.s[0]
	fmla	v4.4s, v11.4s, v0.s[0]
	fmla	v3.4s, v20.4s, v0.s[1]
	fmla	v2.4s, v21.4s, v0.s[1]
	fmla	v1.4s, v22.4s, v0.s[1]
	fmla	v4.4s, v23.4s, v0.s[1]
	ld1	{v8.4s - v11.4s}, [x1]
	fmla	v3.4s, v16.4s, v0.s[2]
	fmla	v2.4s, v17.4s, v0.s[2]
	fmla	v1.4s, v18.4s, v0.s[2]
	fmla	v4.4s, v19.4s, v0.s[2]
	fmla	v3.4s, v8.4s, v0.s[3]
	fmla	v2.4s, v9.4s, v0.s[3]
	fmla	v1.4s, v10.4s, v0.s[3]
	fmla	v4.4s, v11.4s, v0.s[3]
	cmp	x3, x5
	bne	.L83
	add	x4, x4, x13
	mov	x0, x7
.L82:
	cmp	x6, x0
	bls	.L84
	mov	x3, x4
	ldr	s0, [x2, x0, lsl 2]
	add	x5, x0, 1
	lsl	x1, x0, 2
	ld1	{v8.4s - v11.4s}, [x3], 64
	fmla	v3.4s, v8.4s, v0.s[0]
	fmla	v2.4s, v9.4s, v0.s[0]
	fmla	v1.4s, v10.4s, v0.s[0]
	fmla	v4.4s, v11.4s, v0.s[0]
	cmp	x6, x5
	bls	.L85
	add	x1, x2, x1
	add	x2, x0, 2
	ld1	{v8.4s - v11.4s}, [x3]
	ldr	s0, [x1, 4]
	fmla	v3.4s, v8.4s, v0.s[0]
	fmla	v2.4s, v9.4s, v0.s[0]
	fmla	v1.4s, v10.4s, v0.s[0]
	fmla	v4.4s, v11.4s, v0.s[0]
	cmp	x6, x2
	bls	.L85
	add	x3, x4, 128
	ldr	s0, [x1, 8]
	add	x2, x0, 3
	add	x5, x4, 192
	ld1	{v8.4s - v11.4s}, [x3]
	fmla	v3.4s, v8.4s, v0.s[0]
	fmla	v2.4s, v9.4s, v0.s[0]
	fmla	v1.4s, v10.4s, v0.s[0]
	fmla	v4.4s, v11.4s, v0.s[0]
	cmp	x6, x2
	bls	.L85
	ld1	{v8.4s - v11.4s}, [x5]
	ldr	s0, [x1, 12]
	fmla	v3.4s, v8.4s, v0.s[0]
	fmla	v2.4s, v9.4s, v0.s[0]
	fmla	v1.4s, v10.4s, v0.s[0]
	fmla	v4.4s, v11.4s, v0.s[0]
.L85:
	sub	x0, x6, x0
	add	x4, x4, x0, lsl 6
.L84:
	add	x9, x9, 1
	cmp	x11, x9
	bne	.L86
.L80:
	cmp	x25, x20
	bhi	.L151
.L88:
	cmp	x25, x19
	bhi	.L152
.L92:
	cmp	x25, x21
	bhi	.L153
.L96:
	cmp	x25, x24
	bhi	.L154
.L100:
	ldr	x0, [sp, 224]
	add	x28, x28, 1
	cmp	x0, x28
	bne	.L103
	ldr	x3, [sp, 136]
	mov	x24, x25
.L78:
	ldr	x0, [sp, 144]
	add	x3, x3, 64
	add	x0, x0, 16
	str	x0, [sp, 144]
	ldr	x0, [sp, 152]
	add	x0, x0, 16
	str	x0, [sp, 152]
	cmp	x24, x27
	bhi	.L3
	ldp	x19, x20, [sp, 16]
	.cfi_restore 20
	.cfi_restore 19
	ldp	x23, x24, [sp, 48]
	.cfi_restore 24
	.cfi_restore 23
	ldp	x25, x26, [sp, 64]
	.cfi_restore 26
	.cfi_restore 25
	ldp	x27, x28, [sp, 80]
	.cfi_restore 28
	.cfi_restore 27
	ldp	d8, d9, [sp, 96]
	.cfi_restore 73
	.cfi_restore 72
	ldp	d10, d11, [sp, 112]
	.cfi_restore 75
	.cfi_restore 74
.L1:
	ldp	x29, x30, [sp]
	ldp	x21, x22, [sp, 32]
	add	sp, sp, 528
	.cfi_restore 29
	.cfi_restore 30
	.cfi_restore 21
	.cfi_restore 22
	.cfi_def_cfa_offset 0
	ret
.L146:
	.cfi_def_cfa_offset 528
	.cfi_offset 19, -512
	.cfi_offset 20, -504
	.cfi_offset 21, -496
	.cfi_offset 22, -488
	.cfi_offset 23, -480
	.cfi_offset 24, -472
	.cfi_offset 25, -464
	.cfi_offset 26, -456
	.cfi_offset 27, -448
	.cfi_offset 28, -440
	.cfi_offset 29, -528
	.cfi_offset 30, -520
	.cfi_offset 72, -432
	.cfi_offset 73, -424
	.cfi_offset 74, -416
	.cfi_offset 75, -408
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	ldr	x0, [sp, 152]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v9.4s
	madd	x1, x22, x1, x0
	bsl	v0.16b, v1.16b, v9.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x26, x27
	bls	.L155
	sub	x1, x27, x25
	str	q8, [sp, 160]
	sub	x2, x1, #8
	mov	x1, x23
	str	q0, [sp, 512]
	lsl	x2, x2, 2
	bl	memcpy
	ldr	q8, [sp, 160]
	b	.L70
.L145:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v10.4s
	madd	x1, x22, x1, x0
	lsl	x1, x1, 2
	bsl	v0.16b, v1.16b, v10.16b
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x24, x27
	bls	.L156
	ldr	x1, [sp, 208]
	stp	q9, q8, [sp, 160]
	add	x2, x1, x27
	mov	x1, x23
	str	q0, [sp, 512]
	lsl	x2, x2, 2
	bl	memcpy
	ldp	q9, q8, [sp, 160]
	b	.L66
.L144:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	dup	v2.4s, v2.s[0]
	ldr	x3, [sp, 136]
	fcmgt	v0.4s, v1.4s, v27.4s
	madd	x1, x22, x1, x25
	lsl	x1, x1, 2
	bsl	v0.16b, v1.16b, v27.16b
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x27, x3
	bcs	.L157
	sub	x2, x27, x25
	mov	x1, x23
	stp	q9, q10, [sp, 160]
	lsl	x2, x2, 2
	str	q8, [sp, 192]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q10, [sp, 160]
	ldr	q8, [sp, 192]
	b	.L62
.L143:
	ldp	s1, s2, [x20, 96]
	ldr	x0, [x20, 88]
	dup	v1.4s, v1.s[0]
	ldr	x2, [sp, 144]
	ldr	x1, [sp, 160]
	fcmgt	v0.4s, v1.4s, v28.4s
	dup	v2.4s, v2.s[0]
	madd	x1, x1, x0, x2
	ldr	x2, [x20, 80]
	bsl	v0.16b, v1.16b, v28.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x19, x27
	bls	.L158
	sub	x1, x27, x25
	stp	q9, q10, [sp, 160]
	sub	x2, x1, #12
	mov	x1, x23
	str	q27, [sp, 192]
	lsl	x2, x2, 2
	str	q8, [sp, 256]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q10, [sp, 160]
	ldr	q27, [sp, 192]
	ldr	q8, [sp, 256]
	b	.L58
.L135:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x0, [x20, 80]
	dup	v1.4s, v1.s[0]
	ldr	x1, [sp, 144]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v21.4s
	madd	x1, x18, x0, x1
	bsl	v0.16b, v1.16b, v21.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x19, x27
	bls	.L159
	sub	x1, x27, x25
	stp	q9, q26, [sp, 176]
	sub	x2, x1, #12
	mov	x1, x23
	stp	q10, q31, [sp, 256]
	lsl	x2, x2, 2
	stp	q23, q24, [sp, 288]
	stp	q25, q28, [sp, 352]
	stp	q29, q30, [sp, 384]
	stp	q27, q8, [sp, 416]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q26, [sp, 176]
	ldp	q10, q31, [sp, 256]
	ldp	q23, q24, [sp, 288]
	ldp	q25, q28, [sp, 352]
	ldp	q29, q30, [sp, 384]
	ldp	q27, q8, [sp, 416]
	cmp	x27, x25
	bls	.L30
.L136:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	dup	v2.4s, v2.s[0]
	ldr	x3, [sp, 136]
	fcmgt	v0.4s, v1.4s, v26.4s
	madd	x1, x21, x1, x25
	lsl	x1, x1, 2
	bsl	v0.16b, v1.16b, v26.16b
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x27, x3
	bcs	.L160
	sub	x2, x27, x25
	mov	x1, x23
	stp	q9, q10, [sp, 176]
	lsl	x2, x2, 2
	stp	q31, q23, [sp, 256]
	stp	q24, q25, [sp, 288]
	stp	q28, q29, [sp, 352]
	stp	q30, q27, [sp, 384]
	str	q8, [sp, 416]
	str	q0, [sp, 512]
	bl	memcpy
	ldr	x0, [sp, 136]
	ldp	q9, q10, [sp, 176]
	ldp	q31, q23, [sp, 256]
	ldp	q24, q25, [sp, 288]
	ldp	q28, q29, [sp, 352]
	ldp	q30, q27, [sp, 384]
	ldr	q8, [sp, 416]
	cmp	x0, x27
	bcs	.L34
.L137:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v25.4s
	madd	x1, x21, x1, x0
	lsl	x1, x1, 2
	bsl	v0.16b, v1.16b, v25.16b
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x24, x27
	bls	.L161
	ldr	x1, [sp, 208]
	stp	q9, q10, [sp, 176]
	add	x2, x1, x27
	mov	x1, x23
	stp	q31, q23, [sp, 256]
	lsl	x2, x2, 2
	stp	q24, q28, [sp, 288]
	stp	q29, q30, [sp, 352]
	stp	q27, q8, [sp, 384]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q10, [sp, 176]
	ldp	q31, q23, [sp, 256]
	ldp	q24, q28, [sp, 288]
	ldp	q29, q30, [sp, 352]
	ldp	q27, q8, [sp, 384]
	cmp	x24, x27
	bcs	.L38
.L138:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	ldr	x0, [sp, 152]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v24.4s
	madd	x1, x21, x1, x0
	bsl	v0.16b, v1.16b, v24.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x26, x27
	bls	.L162
	sub	x1, x27, x25
	stp	q9, q10, [sp, 176]
	sub	x2, x1, #8
	mov	x1, x23
	stp	q31, q23, [sp, 256]
	lsl	x2, x2, 2
	stp	q28, q29, [sp, 288]
	stp	q30, q27, [sp, 352]
	str	q8, [sp, 384]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q10, [sp, 176]
	ldp	q31, q23, [sp, 256]
	ldp	q28, q29, [sp, 288]
	ldp	q30, q27, [sp, 352]
	ldr	q8, [sp, 384]
	cmp	x26, x27
	bcs	.L42
.L139:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x0, [x20, 80]
	dup	v1.4s, v1.s[0]
	ldr	x1, [sp, 144]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v23.4s
	madd	x1, x21, x0, x1
	bsl	v0.16b, v1.16b, v23.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x19, x27
	bls	.L163
	sub	x1, x27, x25
	stp	q9, q10, [sp, 176]
	sub	x2, x1, #12
	mov	x1, x23
	stp	q31, q28, [sp, 256]
	lsl	x2, x2, 2
	stp	q29, q30, [sp, 288]
	stp	q27, q8, [sp, 352]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q10, [sp, 176]
	ldp	q31, q28, [sp, 256]
	ldp	q29, q30, [sp, 288]
	ldp	q27, q8, [sp, 352]
	cmp	x25, x27
	bcs	.L46
.L140:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	ldr	x0, [sp, 160]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v31.4s
	madd	x1, x0, x1, x25
	ldr	x3, [sp, 136]
	bsl	v0.16b, v1.16b, v31.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x27, x3
	bcs	.L164
	sub	x2, x27, x25
	mov	x1, x23
	stp	q9, q10, [sp, 176]
	lsl	x2, x2, 2
	stp	q28, q29, [sp, 256]
	stp	q30, q27, [sp, 288]
	str	q8, [sp, 352]
	str	q0, [sp, 512]
	bl	memcpy
	ldr	x0, [sp, 136]
	ldp	q9, q10, [sp, 176]
	ldp	q28, q29, [sp, 256]
	ldp	q30, q27, [sp, 288]
	ldr	q8, [sp, 352]
	cmp	x27, x0
	bls	.L50
.L141:
	ldp	s1, s2, [x20, 96]
	mov	x2, x0
	ldr	x1, [x20, 88]
	dup	v1.4s, v1.s[0]
	ldr	x0, [sp, 160]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v30.4s
	madd	x1, x0, x1, x2
	ldr	x2, [x20, 80]
	bsl	v0.16b, v1.16b, v30.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x24, x27
	bls	.L165
	ldr	x1, [sp, 208]
	stp	q9, q10, [sp, 176]
	add	x2, x1, x27
	mov	x1, x23
	stp	q28, q29, [sp, 256]
	lsl	x2, x2, 2
	stp	q27, q8, [sp, 288]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q10, [sp, 176]
	ldp	q28, q29, [sp, 256]
	ldp	q27, q8, [sp, 288]
	cmp	x24, x27
	bcs	.L54
.L142:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x0, [sp, 152]
	dup	v1.4s, v1.s[0]
	ldr	x1, [x20, 88]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v29.4s
	madd	x1, x0, x1, x2
	ldr	x2, [x20, 80]
	bsl	v0.16b, v1.16b, v29.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x26, x27
	bls	.L166
	sub	x1, x27, x25
	stp	q9, q10, [sp, 176]
	sub	x2, x1, #8
	mov	x1, x23
	stp	q28, q27, [sp, 256]
	lsl	x2, x2, 2
	str	q8, [sp, 288]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q10, [sp, 176]
	ldp	q28, q27, [sp, 256]
	ldr	q8, [sp, 288]
	b	.L54
.L133:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v22.4s
	madd	x1, x18, x1, x0
	lsl	x1, x1, 2
	bsl	v0.16b, v1.16b, v22.16b
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x27, x24
	bcs	.L167
	ldr	x1, [sp, 208]
	stp	q9, q26, [sp, 176]
	add	x2, x1, x27
	mov	x1, x23
	stp	q10, q21, [sp, 256]
	lsl	x2, x2, 2
	stp	q20, q31, [sp, 288]
	stp	q23, q24, [sp, 352]
	stp	q25, q28, [sp, 384]
	stp	q29, q30, [sp, 416]
	stp	q27, q8, [sp, 448]
	str	x18, [sp, 480]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q26, [sp, 176]
	ldp	q10, q21, [sp, 256]
	ldp	q20, q31, [sp, 288]
	ldp	q23, q24, [sp, 352]
	ldp	q25, q28, [sp, 384]
	ldp	q29, q30, [sp, 416]
	ldp	q27, q8, [sp, 448]
	ldr	x18, [sp, 480]
	cmp	x27, x24
	bls	.L22
.L134:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	ldr	x0, [sp, 152]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v20.4s
	madd	x1, x18, x1, x0
	bsl	v0.16b, v1.16b, v20.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x27, x26
	bcs	.L168
	sub	x1, x27, x25
	stp	q9, q26, [sp, 176]
	sub	x2, x1, #8
	mov	x1, x23
	stp	q10, q21, [sp, 256]
	lsl	x2, x2, 2
	stp	q31, q23, [sp, 288]
	stp	q24, q25, [sp, 352]
	stp	q28, q29, [sp, 384]
	stp	q30, q27, [sp, 416]
	str	q8, [sp, 448]
	str	x18, [sp, 464]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q9, q26, [sp, 176]
	ldp	q10, q21, [sp, 256]
	ldp	q31, q23, [sp, 288]
	ldp	q24, q25, [sp, 352]
	ldp	q28, q29, [sp, 384]
	ldp	q30, q27, [sp, 416]
	ldr	q8, [sp, 448]
	ldr	x18, [sp, 464]
	b	.L22
.L132:
	ldp	s1, s2, [x20, 96]
	ldp	x2, x1, [x20, 80]
	dup	v1.4s, v1.s[0]
	dup	v2.4s, v2.s[0]
	ldr	x3, [sp, 136]
	fcmgt	v0.4s, v1.4s, v11.4s
	madd	x1, x18, x1, x25
	lsl	x1, x1, 2
	bsl	v0.16b, v1.16b, v11.16b
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x27, x3
	bcs	.L169
	sub	x2, x27, x25
	mov	x1, x23
	stp	q22, q9, [sp, 176]
	lsl	x2, x2, 2
	stp	q26, q10, [sp, 256]
	stp	q21, q20, [sp, 288]
	stp	q31, q23, [sp, 352]
	stp	q24, q25, [sp, 384]
	stp	q28, q29, [sp, 416]
	stp	q30, q27, [sp, 448]
	str	q8, [sp, 480]
	str	x18, [sp, 504]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q22, q9, [sp, 176]
	ldp	q26, q10, [sp, 256]
	ldp	q21, q20, [sp, 288]
	ldp	q31, q23, [sp, 352]
	ldp	q24, q25, [sp, 384]
	ldp	q28, q29, [sp, 416]
	ldp	q30, q27, [sp, 448]
	ldr	q8, [sp, 480]
	ldr	x18, [sp, 504]
	b	.L14
.L113:
	mov	x0, 0
	b	.L82
.L150:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L74
.L154:
	ldp	s1, s2, [x26, 96]
	ldp	x2, x1, [x26, 80]
	dup	v1.4s, v1.s[0]
	ldr	x0, [sp, 144]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v1.4s, v4.4s
	madd	x1, x28, x1, x0
	bsl	v0.16b, v1.16b, v4.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x27, x25
	bls	.L101
	sub	x1, x25, x20
	str	q0, [sp, 512]
	sub	x2, x1, #12
	mov	x1, x23
	lsl	x2, x2, 2
	bl	memcpy
	b	.L100
.L153:
	ldp	s3, s2, [x26, 96]
	ldp	x2, x1, [x26, 80]
	dup	v3.4s, v3.s[0]
	ldp	x3, x0, [sp, 144]
	dup	v2.4s, v2.s[0]
	fcmgt	v0.4s, v3.4s, v1.4s
	madd	x1, x28, x1, x0
	bsl	v0.16b, v3.16b, v1.16b
	lsl	x1, x1, 2
	add	x0, x2, x1
	fcmgt	v1.4s, v0.4s, v2.4s
	bit	v0.16b, v2.16b, v1.16b
	cmp	x25, x3
	bcs	.L97
	sub	x1, x25, x20
	str	q4, [sp, 192]
	sub	x2, x1, #8
	mov	x1, x23
	str	q0, [sp, 512]
	lsl	x2, x2, 2
	bl	memcpy
	ldr	q4, [sp, 192]
	b	.L96
.L155:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L70
.L156:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L66
.L152:
	ldp	s5, s3, [x26, 96]
	ldp	x2, x1, [x26, 80]
	dup	v5.4s, v5.s[0]
	dup	v3.4s, v3.s[0]
	ldr	x3, [sp, 152]
	fcmgt	v0.4s, v5.4s, v2.4s
	madd	x1, x28, x1, x19
	lsl	x1, x1, 2
	bsl	v0.16b, v5.16b, v2.16b
	add	x0, x2, x1
	fcmgt	v2.4s, v0.4s, v3.4s
	bit	v0.16b, v3.16b, v2.16b
	cmp	x25, x3
	bcs	.L93
	sub	x1, x25, x20
	stp	q4, q1, [sp, 192]
	sub	x2, x1, #4
	mov	x1, x23
	str	q0, [sp, 512]
	lsl	x2, x2, 2
	bl	memcpy
	ldp	q4, q1, [sp, 192]
	b	.L92
.L151:
	ldp	s6, s5, [x26, 96]
	ldp	x2, x1, [x26, 80]
	dup	v6.4s, v6.s[0]
	dup	v5.4s, v5.s[0]
	fcmgt	v0.4s, v6.4s, v3.4s
	madd	x1, x28, x1, x20
	lsl	x1, x1, 2
	bsl	v0.16b, v6.16b, v3.16b
	add	x0, x2, x1
	fcmgt	v3.4s, v0.4s, v5.4s
	bit	v0.16b, v5.16b, v3.16b
	cmp	x19, x25
	bls	.L89
	sub	x2, x25, x20
	mov	x1, x23
	stp	q4, q1, [sp, 192]
	lsl	x2, x2, 2
	str	q2, [sp, 240]
	str	q0, [sp, 512]
	bl	memcpy
	ldp	q4, q1, [sp, 192]
	ldr	q2, [sp, 240]
	b	.L88
.L111:
	movi	v1.4s, 0
	mov	v2.16b, v1.16b
	mov	v3.16b, v1.16b
	mov	v4.16b, v1.16b
	b	.L79
.L157:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L62
.L169:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L14
.L167:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L18
.L162:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L38
.L159:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L26
.L166:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L54
.L168:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L22
.L164:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L46
.L158:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L58
.L165:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L50
.L163:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L42
.L161:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L34
.L107:
	mov	v8.16b, v21.16b
	mov	v9.16b, v20.16b
	mov	v10.16b, v22.16b
	mov	v27.16b, v11.16b
	mov	v28.16b, v21.16b
	mov	v29.16b, v20.16b
	mov	v30.16b, v22.16b
	mov	v31.16b, v11.16b
	mov	v23.16b, v21.16b
	mov	v24.16b, v20.16b
	mov	v25.16b, v22.16b
	mov	v26.16b, v11.16b
	b	.L5
.L160:
	str	q0, [x2, x1]
	ldr	x27, [x20, 48]
	b	.L30
.L93:
	str	q0, [x2, x1]
	ldr	x25, [x26, 48]
	b	.L92
.L131:
	ldr	x28, [sp, 496]
	b	.L105
.L101:
	str	q0, [x2, x1]
	ldr	x25, [x26, 48]
	b	.L100
.L97:
	str	q0, [x2, x1]
	ldr	x25, [x26, 48]
	b	.L96
.L89:
	str	q0, [x2, x1]
	ldr	x25, [x26, 48]
	b	.L88
	.cfi_endproc
.LFE4371:
	.size	qc_gemm_f32_neon, .-qc_gemm_f32_neon
	.ident	"GCC: (Debian 12.2.0-14) 12.2.0"
	.section	.note.GNU-stack,"",@progbits
