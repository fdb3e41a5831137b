/* The limit of JPEG decoding: libjpeg-turbo in a loop, one buffer kept.
   cc -O2 jpeg_loop.c -ljpeg; ./a.out FILE ROUNDS: FILE is a run of (uint32 size, bytes); a line a round: CPU seconds. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <jpeglib.h>

static double cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(int argc, char **argv) {
    FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (!file) return 1;
    fseek(file, 0, SEEK_END);
    size_t length = ftell(file);
    rewind(file);
    unsigned char *data = malloc(length), *pixels = malloc(3 * 4096 * 4096);
    if (fread(data, 1, length, file) != length) return 1;
    struct jpeg_decompress_struct info;
    struct jpeg_error_mgr errors;
    info.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&info);
    for (int round = 0; round < atoi(argv[2]); round++) {
        double start = cpu();
        for (size_t at = 0; at < length;) {
            uint32_t size = *(uint32_t *)(data + at);
            jpeg_mem_src(&info, data + at + 4, size);
            jpeg_read_header(&info, TRUE);
            info.out_color_space = JCS_RGB;
            jpeg_start_decompress(&info);
            size_t stride = (size_t)3 * info.output_width;
            while (info.output_scanline < info.output_height) {
                unsigned char *rows[8];
                for (int i = 0; i < 8; i++) rows[i] = pixels + (info.output_scanline + i) * stride;
                jpeg_read_scanlines(&info, rows, 8);
            }
            jpeg_finish_decompress(&info);
            at += 4 + size;
        }
        printf("%.6f\n", cpu() - start);
    }
    return 0;
}
